//! How long a client waits when the cloud fails it: until the local model has the request, until it speaks, until it goes on.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use understudy::gateway::limits::{Delivery, Limits};

use super::client::{Client, body, find};
use super::cloud::{Cloud, Say};
use super::figures::{Bar, Samples, difference_us, line, remark};
use super::local::{Asks, Local, never_open};
use super::{Error, Options};

const SWITCH: Bar = Bar { most: 1.0, unit: "ms" };
const SILENCE: Bar = Bar { most: 12.5, unit: "s" };
const GO_ON: Bar = Bar { most: 150.0, unit: "ms" };

/// Of limits, where they are not waited for.
const SCALE: u32 = 100;
const SILENCES: usize = 50;
const SLOW_SILENCES: usize = 5;
/// Of a reply when it is cut.
const WORDS: usize = 60;
const SEAM: &[u8] = b": understudy:";
const WORD: &[u8] = b"text_delta";

pub fn run(cloud: &Cloud, local: &Local, options: &Options) -> Result<(), Error> {
    if options.wants("switch") {
        switches(cloud, local, options)?;
    }
    if options.wants("silence") {
        silences(cloud, local, options)?;
    }
    if options.wants("reset") {
        resets(cloud, local, options)?;
    }
    Ok(())
}

/// From the fault at the socket to the reply's first byte, less what the same request takes where there is no front door.
fn switches(cloud: &Cloud, local: &Local, options: &Options) -> Result<(), Error> {
    let without = local.alone()?;
    // Pauses before a second try are scaled; what is measured begins after the last one.
    let rules = |rules: &mut _| {
        never_open(rules);
        rules.retry = rules.retry.clone().scaled(SCALE);
    };
    let door = local.behind_door(cloud.address(), Asks::Nobody, rules)?;
    let nobody = local.behind_door(closed_port()?, Asks::Nobody, rules)?;
    let from_fault = "from the fault's last byte at the socket";
    let kinds = [
        ("switch after a 503", door, Say::Error(503), Fault::OfCloud, from_fault),
        ("switch after a 529", door, Say::Error(529), Fault::OfCloud, from_fault),
        ("switch after a reset before the head", door, Say::Reset, Fault::OfCloud, "from the last of two resets: the first is tried again"),
        (
            "switch after a refused connection",
            nobody,
            Say::Whole,
            Fault::AtSending,
            "from the client's request: nothing of it is seen earlier",
        ),
    ];
    let asked = body(true, 1, "hello");
    for (name, door, say, fault, how) in kinds {
        let (mut through, mut direct) = (Client::connect(door)?, Client::connect(without)?);
        let mut added = Samples::default();
        for trial in 0..options.trials {
            let one = local_reply(&mut direct, &asked, trial)?;
            through.send(say, &asked, trial)?;
            let at = through.more()?;
            let from = if fault == Fault::OfCloud { cloud.last_useful() } else { through.sent_at() };
            through.finish()?;
            if through.is_of_cloud() {
                return Err(format!("{name}: the local model was to answer").into());
            }
            added.push(difference_us(at.duration_since(from), one) / 1e3);
        }
        let how = format!("{} trials, {how}, less the same request without a front door", added.len());
        line(name, added.median(), SWITCH, &how);
    }
    Ok(())
}

/// From when a switch is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    OfCloud,
    AtSending,
}

/// Until its first byte.
fn local_reply(client: &mut Client, asked: &str, session: usize) -> Result<Duration, Error> {
    client.send(Say::Whole, asked, session)?;
    let first = client.first_byte()?;
    client.finish()?;
    Ok(first)
}

/// A port that was free a moment ago: nobody listens there.
fn closed_port() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The cloud opens a stream and says nothing; until the local model's first word.
fn silences(cloud: &Cloud, local: &Local, options: &Options) -> Result<(), Error> {
    let asked = body(true, 4, "hello");
    let rough_tokens = asked.len() as u64 / 4;
    let default_s = Limits::default().first_content(Delivery::Stream, rough_tokens, None).as_secs_f64();
    let scaled = local.behind_door(cloud.address(), Asks::Nobody, |rules| {
        never_open(rules);
        rules.limits = rules.limits.clone().scaled(SCALE);
    })?;
    let limit_ms = 1e3 * default_s / f64::from(SCALE);
    let mut beyond = Samples::default();
    // The first one reads the prompt; those after it find it read, as it would be in a conversation that was followed.
    for trial in 0..=SILENCES.min(options.trials) {
        let silence = silence(cloud, scaled, &asked, trial)?;
        if trial > 0 {
            beyond.push(1e3 * silence.as_secs_f64() - limit_ms);
        }
    }
    let how =
        format!("{default_s:.2} s of limit, and the median of {} trials with limits a {SCALE}th: {:.1} ms", beyond.len(), beyond.median());
    line("total silence, prefix warm, from scaled limits", default_s + beyond.median() / 1e3, SILENCE, &how);
    if options.slow {
        let door = local.behind_door(cloud.address(), Asks::Nobody, never_open)?;
        let mut whole = Samples::default();
        for trial in 0..SLOW_SILENCES {
            whole.push(silence(cloud, door, &asked, trial)?.as_secs_f64());
        }
        line("total silence, prefix warm, default limits", whole.median(), SILENCE, &format!("{SLOW_SILENCES} trials"));
    }
    Ok(())
}

fn silence(cloud: &Cloud, door: SocketAddr, asked: &str, session: usize) -> Result<Duration, Error> {
    let mut client = Client::connect(door)?;
    client.send(Say::Silence, asked, session)?;
    let spoke = client.until(WORD, 0)?;
    let from = cloud.last_useful();
    client.finish()?;
    Ok(spoke.duration_since(from))
}

/// The cloud is reset in its text; until the client has the next word. The prompt is in the local cache, the text so far is new each time.
fn resets(cloud: &Cloud, local: &Local, options: &Options) -> Result<(), Error> {
    let without = local.alone()?;
    let door = local.behind_door(cloud.address(), Asks::Nobody, never_open)?;
    let asked = body(true, 512, "Tell me a story.");
    let mut direct = Client::connect(without)?;
    local_reply(&mut direct, &body(true, 1, "Tell me a story."), 0)?;
    let (mut gaps, mut silent) = (Samples::default(), 0);
    for trial in 0..options.trials {
        let mut client = Client::connect(door)?;
        client.send(Say::Cut { words: WORDS, trial }, &asked, trial)?;
        client.until(SEAM, 0)?;
        let from = cloud.last_useful();
        let seam = find(&client.read, SEAM).ok_or("it was found just now")?;
        match client.until(WORD, seam) {
            Ok(at) => gaps.push_ms(at.duration_since(from)),
            // It had nothing to add.
            Err(_) => silent += 1,
        }
        // Nobody reads the rest; dropping the connection ends it.
    }
    let how = format!("{} trials, {silent} more in which nothing was added; after {WORDS} words, the prompt's KV warm", gaps.len());
    line("reset in mid-text, last byte to next token", gaps.median(), GO_ON, &how);
    remark("  the same, p95", gaps.quantile(0.95), "ms", "");
    Ok(())
}
