//! What happens around the front door: a machine that slept, a disk and a scraper that are gone, a network that comes and goes.

use understudy::gateway::drill::answer::{Answer, Misbehaviour, SIXTY_WORDS};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::{Plan, Rule};
use understudy::gateway::drill::raw_client::RawRequest;

use super::doors::{DIALECTS, door, setup};
use super::outcome::{
    asked, briefly, eventually, held, is_down, is_well, question, request_of, text_in_one_piece, until_the_cloud_answers, whole, with,
};
use crate::support::front_door::{Setup, request};
use crate::support::temp_dir::TempDir;

const MESSAGES: Dialect = Dialect::AnthropicMessages;

/// After a sleep, connections that were kept lead nowhere: the next request goes out on a new one.
pub fn connections_after_a_sleep() {
    let door = door(setup(MESSAGES, Plan::healthy()));
    // In one piece: then the connection is kept before the client has its reply.
    let connection = || {
        assert_eq!(text_in_one_piece(MESSAGES, &door.exchange(&request(MESSAGES, false))), SIXTY_WORDS);
        door.attempts().pop().expect("it went up").connection
    };
    // One that is not ready at once is not waited for, and on a busy machine that happens.
    let mut kept = connection();
    eventually("a connection is kept", || std::mem::replace(&mut kept, connection()) == kept);
    door.gateway.forget_connections();
    assert!(connection() > kept, "a new connection");
    is_well(&door);
    held(&door);
}

/// A key is read when the server starts; what becomes of its file then is no request's business.
pub fn key_file_is_gone() {
    let folder = TempDir::new();
    let path = folder.write("key", "of-the-file\n");
    let upstream: &'static str = format!("key_file = {:?}", path.display().to_string()).leak();
    let door = door(Setup { upstream, ..setup(MESSAGES, Plan::healthy()) });
    std::fs::remove_file(&path).expect("it was there");
    asked(&door, MESSAGES).is_cloud();
    let attempt = door.attempts().pop().expect("it went up");
    assert_eq!((attempt.header("x-api-key"), attempt.header("authorization")), (Some("of-the-file"), None));
    held(&door);
}

/// Whoever asks for numbers and does not read them holds up nobody.
pub fn scraper_that_hangs() {
    let door = door(setup(MESSAGES, Plan::first(3, Answer::wrong(Misbehaviour::Empty))));
    let mut scrapers: Vec<_> = (0..8).map(|_| door.app.connect()).collect();
    for scraper in &mut scrapers {
        for _ in 0..50 {
            scraper.request("GET", "/metrics", &[], b"");
        }
    }
    for dialect in DIALECTS {
        asked(&door, dialect);
    }
    held(&door);
}

fn of_model(model: &str) -> RawRequest {
    with(request_of(model, MESSAGES), "model", model)
}

/// Without a network nobody waits: the first request is answered here as soon as the connection is refused, and the others at once. What
/// is away is the host, whatever model is asked for.
pub fn network_that_goes_and_comes() {
    // Cooldowns as users have them, so that what is asked meanwhile meets an open breaker.
    let door = door(Setup { scale: 1, ..setup(MESSAGES, Plan::healthy()) });
    asked(&door, MESSAGES).is_cloud();
    let before = door.attempts().len();
    door.upstream().set_listening(false);
    let answers = |model: &str| whole(MESSAGES, &door.exchange(&of_model(model)));
    eventually("it is gone", || answers("claude-a").reason.as_deref() == Some("refused"));
    answers("claude-a").is_local("refused");
    is_down(&door, "refused");
    door.upstream().set_listening(true);
    answers("claude-b").is_local("refused");
    assert_eq!(door.attempts().iter().skip(before).filter(|attempt| attempt.model == "claude-b").count(), 0, "the host is not asked");
    held(&door);
}

/// And when it is back, so is the cloud: on new connections, without a restart.
pub fn network_that_is_back() {
    let door = door(Setup { scale: 100, ..setup(MESSAGES, Plan::default().then(Rule::named("well", Answer::healthy()))) });
    for _ in 0..3 {
        door.upstream().set_listening(false);
        eventually("it is gone", || briefly(&door, MESSAGES, "a").reason.is_some());
        whole(MESSAGES, &door.exchange(&question(MESSAGES)));
        door.upstream().set_listening(true);
        until_the_cloud_answers(&door, MESSAGES);
        // The second success closes the breaker.
        until_the_cloud_answers(&door, MESSAGES);
    }
    held(&door);
}
