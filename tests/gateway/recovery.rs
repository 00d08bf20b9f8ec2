//! The way back: when a cloud that was away is asked again, by whom, and with which words of the conversation.

use std::time::Duration;

use serde_json::{Value, json};
use understudy::gateway::drill::answer::{Answer, ErrorKind, Misbehaviour, Reply, SIXTY_WORDS};
use understudy::gateway::drill::fault_upstream::Attempt;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::{Expect, Flapping, Plan, Rule, TimeWindow};
use understudy::gateway::drill::raw_client::{Exchange, RawRequest};
use understudy::gateway::history::local_signature;

use super::doors::{door, door_with, setup};
use super::outcome::{
    Answered, BRIEF, FIRST, attempts_when, briefly, directly, eventually, held, is_down, reply_to, request_of, sent,
    until_the_cloud_answers, whole,
};
use crate::support::front_door::{CLOUD, FrontDoor, LOCAL, Setup};

const MESSAGES: Dialect = Dialect::AnthropicMessages;

fn overloaded() -> Plan {
    Plan::always(Answer::error(ErrorKind::Overloaded))
}

fn of(door: &FrontDoor, session: &str) -> Answered {
    briefly(door, MESSAGES, session)
}

/// Opens the breaker: two conversations fail.
fn bring_down(door: &FrontDoor) {
    door.upstream().set_plan(overloaded());
    for session in ["down 1", "down 2"] {
        of(door, session).is_local("overloaded");
    }
    is_down(door, "overloaded");
}

/// A minute down, a minute up, at a hundredth: everybody is answered, few ask a cloud that is down, and once it stays up, it is back.
pub fn flapping() {
    let down = Rule {
        time: TimeWindow { from_ms: 0, until_ms: Some(3_600), flapping: Some(Flapping { every_ms: 1_200, for_ms: 600 }) },
        ..Rule::named("down", Answer::error(ErrorKind::Overloaded))
    };
    let door = door(Setup { scale: 100, ..setup(MESSAGES, Plan::default().then(down)) });
    let (mut local, mut cloud) = (0, 0);
    while door.upstream().elapsed() < Duration::from_millis(3_600) {
        let answered = of(&door, &format!("flapping {}", local + cloud));
        if answered.by == LOCAL {
            local += 1
        } else {
            cloud += 1
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(local > 0 && cloud > 0, "{local} local, {cloud} from the cloud");
    let in_vain = door.attempts().iter().filter(|attempt| attempt.rule == "down").count();
    // Each of the three times: two to open, and probes after 50, 150 and 350 ms.
    assert!(in_vain <= 3 * 6, "{in_vain} of {local} asked a cloud that was down");
    until_the_cloud_answers(&door, MESSAGES);
    held(&door);
}

/// Every second request fails: nobody sees it.
pub fn brownout() {
    let half = Rule { percent: Some(50), ..Rule::named("failing", Answer::error(ErrorKind::Unavailable)) };
    for seed in [1, 2, 3] {
        let plan = Plan::default().with_seed(seed).then(half.clone());
        let door = door(Setup { scale: 100, ..setup(MESSAGES, plan) });
        for number in 0..40 {
            of(&door, &format!("brownout {number}"));
        }
        assert!(door.attempts().len() <= 80, "no request is tried more than twice");
        door.upstream().set_plan(Plan::healthy());
        until_the_cloud_answers(&door, MESSAGES);
        held(&door);
    }
}

/// While the breaker is half-open, whoever else comes is answered here.
pub fn one_probe_at_a_time() {
    let door = door_with(setup(MESSAGES, Plan::healthy()), |rules| {
        // The probe may take its time; cooldowns are over at once.
        rules.limits.first_content = Duration::from_secs(30);
        rules.limits.byte_silence = Duration::from_secs(30);
        rules.breakers.cooldown_first = Duration::from_millis(5);
        rules.breakers.cooldown_max_cheap = Duration::from_millis(5);
        rules.breakers.probe_deadline = Duration::from_secs(600);
        rules.breakers.edge_probe_interval = None;
    });
    bring_down(&door);
    let before = door.attempts().len();
    // Silent until it is told otherwise: nothing of this depends on who is quick.
    door.upstream().set_plan(Plan::always(Answer::wrong(Misbehaviour::NoHeaders)));
    std::thread::sleep(Duration::from_millis(20));
    let mut asked: Vec<_> = (0..8).map(|number| sent(&door, request_of(&format!("at once {number}"), MESSAGES))).collect();
    // All but the probe are answered here.
    eventually("seven are answered", || asked.iter().filter(|task| task.is_finished()).count() == 7);
    assert_eq!(door.attempts().len(), before + 1, "one probe was in flight");
    let probe = asked.iter().position(|task| !task.is_finished()).expect("the probe still waits");
    let probe = asked.swap_remove(probe);
    for task in asked {
        whole(MESSAGES, &reply_to(&door, task)).is_local("overloaded");
    }
    // Its client leaves: that says nothing, and the next one may probe.
    probe.abort();
    attempts_when(&door, |attempts| attempts.last().is_some_and(|attempt| attempt.client_left_at.is_some()));
    door.upstream().set_plan(Plan::healthy());
    until_the_cloud_answers(&door, MESSAGES);
    held(&door);
}

/// A conversation that has changed its speaker three times stays away for longer; others do not pay for it.
pub fn damping() {
    let door = door_with(setup(MESSAGES, Plan::healthy()), |rules| {
        rules.breakers.cooldown_first = Duration::from_millis(1);
        rules.breakers.cooldown_max_cheap = Duration::from_millis(1);
        rules.breakers.edge_probe_interval = None;
        // Once is enough to close, so that each turn of this test is a switch.
        rules.breakers.successes_to_close = 1;
        rules.sessions.flap_window = Duration::from_secs(600);
        rules.sessions.dwell_first = Duration::from_secs(300);
    });
    let turn = |plan: Plan, by: &str| {
        door.upstream().set_plan(plan);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(of(&door, "restless").by, by);
    };
    for _ in 0..2 {
        turn(Plan::healthy(), FIRST);
        turn(overloaded(), LOCAL);
    }
    door.upstream().set_plan(Plan::healthy());
    until_the_cloud_answers(&door, MESSAGES);
    for _ in 0..3 {
        of(&door, "restless").is_local("stays_until_a_human_turn");
    }
    of(&door, "calm").is_cloud();
    held(&door);
}

const CALL: &str = "toolu_01AbCdEfGhIjKlMnOpQrStUv";

/// A conversation in the middle of its tools, or behind them.
fn conversation(session: &str, thoughts: &[(&str, &str)], answered: &str, last: Value) -> RawRequest {
    let thinking = thoughts.iter().map(|(text, signature)| json!({"type": "thinking", "thinking": text, "signature": signature}));
    let said = json!({"type": "text", "text": answered});
    let call = json!({"type": "tool_use", "id": CALL, "name": "look", "input": {"at": "the stage"}});
    let order = format!("SAY[[{SIXTY_WORDS}]]");
    let body = json!({
        "model": CLOUD, "max_tokens": 500, "stream": true,
        "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}],
        "messages": [
            {"role": "user", "content": order},
            {"role": "assistant", "content": thinking.chain([said, call]).collect::<Vec<_>>()},
            {"role": "user", "content": last},
        ],
    });
    RawRequest::post(MESSAGES.path(), &body).header("x-session-id", session).header("x-api-key", "of-the-client")
}

fn result() -> Value {
    json!({"type": "tool_result", "tool_use_id": CALL, "content": "it is dark"})
}

/// Whoever began to use tools ends: no other head in the middle of it. Then a person speaks.
pub fn in_the_middle_of_a_tool_loop() {
    let door = door_with(setup(MESSAGES, Plan::healthy()), |rules| rules.sessions.idle = Duration::from_secs(600));
    bring_down(&door);
    of(&door, "with tools").is_local("overloaded");
    door.upstream().set_plan(Plan::healthy());
    until_the_cloud_answers(&door, MESSAGES);
    let before = door.attempts().len();
    for _ in 0..3 {
        let request = conversation("with tools", &[], "I look.", json!([result()]));
        whole(MESSAGES, &door.exchange(&request)).is_local("stays_until_a_human_turn");
    }
    assert_eq!(door.attempts().len(), before);
    let new = conversation("new", &[], "I look.", json!([result()]));
    whole(MESSAGES, &door.exchange(&new)).is_cloud();
    of(&door, "with tools").is_cloud();
    held(&door);
}

/// An hour later nobody's cache is warm any more: then a tool's result may go up as well.
pub fn after_a_long_silence_in_a_tool_loop() {
    let door = door_with(setup(MESSAGES, Plan::healthy()), |rules| rules.sessions.idle = Duration::from_millis(20));
    bring_down(&door);
    of(&door, "with tools").is_local("overloaded");
    door.upstream().set_plan(Plan::healthy());
    until_the_cloud_answers(&door, MESSAGES);
    std::thread::sleep(Duration::from_millis(30));
    let request = conversation("with tools", &[], "I look.", json!([result()]));
    whole(MESSAGES, &door.exchange(&request)).is_cloud();
}

/// The text blocks of the last assistant's message, as they went up.
fn went_up(attempt: &Attempt) -> Vec<Value> {
    let body = attempt.json();
    body["messages"][1]["content"].as_array().expect("blocks").clone()
}

fn signed_thinking(exchange: &Exchange) -> String {
    let mut deltas = exchange.events().into_iter().map(|event| event.json()).filter(|json| json["delta"]["type"] == "signature_delta");
    let signature = deltas.next_back().expect("the thinking was signed")["delta"]["signature"].clone();
    signature.as_str().expect("a signature is text").to_owned()
}

/// What this machine thought and announced does not go up; what the cloud itself thought does, and ids stay as they are.
pub fn history_of_this_machine() {
    let plan = Plan::default().with_expect(Expect { strict_history: true, ..Expect::default() });
    let door = door(setup(MESSAGES, plan.clone()));
    bring_down(&door);
    let announced = of(&door, "mixed").told.text;
    assert!(announced.contains("in the cloud's place"), "the answer of a switch opens with the notice: {announced}");
    let thinks = Answer::saying(Reply::text(SIXTY_WORDS).with_thinking("The lamp is on."));
    door.upstream().set_plan(plan.clone().then(Rule { answer: thinks, ..Rule::default() }));
    until_the_cloud_answers(&door, MESSAGES);
    let thought = door.exchange(&request_of("thinks", MESSAGES));
    whole(MESSAGES, &thought).is_cloud();
    let cloud = signed_thinking(&thought);
    door.upstream().set_plan(plan);

    let mine = local_signature("It is dark.");
    let last = json!([result(), {"type": "text", "text": "And now?"}]);
    let thoughts = [("It is dark.", mine.as_str()), ("The lamp is on.", cloud.as_str()), ("Unsigned.", "")];
    let request = conversation("fresh", &thoughts, &announced, last);
    whole(MESSAGES, &door.exchange(&request)).is_cloud();
    let attempt = door.attempts().pop().expect("it went up");
    assert_eq!(attempt.refused, None, "the upstream accepts the conversation");
    let blocks = went_up(&attempt);
    assert_eq!(blocks.len(), 3, "{blocks:?}");
    assert_eq!(blocks[0], json!({"type": "thinking", "thinking": "The lamp is on.", "signature": cloud}));
    assert_eq!(blocks[1], json!({"type": "text", "text": BRIEF}), "without its notice");
    assert_eq!((&blocks[2]["id"], &attempt.json()["messages"][2]["content"][0]), (&json!(CALL), &result()));

    // Without this, the upstream would have refused it.
    let direct = directly(&door, door.upstream(), &request);
    assert_eq!(direct.status(), Some(400), "{}", direct.text());
    held(&door);
}
