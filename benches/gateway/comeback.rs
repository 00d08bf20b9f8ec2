//! How soon the cloud speaks again once it is well: of the pure state machines by their default times, in outages by the hundred; and of
//! the real thing with a hundredth of all times.

use std::time::{Duration, Instant};

use understudy::gateway::circuit_breaker::{Asked, BreakerConfig, Breakers, EdgeAnswer, Outcome, Target};
use understudy::gateway::fault::Fault;
use understudy::gateway::limits::{Delivery, Limits};
use understudy::gateway::sessions::{SessionConfig, SessionKey, Sessions, Spoken, Tier, Turn};

use super::client::{Client, body};
use super::cloud::{Cloud, Say};
use super::figures::{Bar, Samples, line, remark};
use super::local::{Asks, Local};
use super::{Error, Options};

const RETURN: Bar = Bar { most: 30.0, unit: "s" };

const SEEDS: u64 = 300;
/// A person speaks so often: what is measured is the front door's part, and not how long people read.
const TURN_EVERY: Duration = Duration::from_secs(4);
const EDGE_TICK: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(100);
const CLOUD: Tier = Tier(0);
const LOCAL: Tier = Tier(1);
const SCALE: u32 = 100;
const REAL_TRIALS: usize = 12;

/// An outage as requests and the free question see it.
struct Outage {
    name: &'static str,
    fault: Fault,
    edge: EdgeAnswer,
    /// Whether a request waits for its limit.
    is_silent: bool,
}

const OUTAGES: [Outage; 4] = [
    Outage { name: "refused", fault: Fault::Refused, edge: EdgeAnswer::Unreachable, is_silent: false },
    Outage { name: "503", fault: Fault::Status(503), edge: EdgeAnswer::ServerError, is_silent: false },
    Outage { name: "529, the edge lives", fault: Fault::Overloaded, edge: EdgeAnswer::Alive, is_silent: false },
    Outage { name: "silence, the edge lives", fault: Fault::FirstContentLimit, edge: EdgeAnswer::Alive, is_silent: true },
];

impl Outage {
    /// How long a request takes to fail, of an upstream whose first content usually took a second.
    fn fails_after(&self, is_probe: bool) -> Duration {
        let (limits, usual) = (Limits::default(), Some(Duration::from_secs(1)));
        match (self.is_silent, is_probe) {
            (false, _) => Duration::ZERO,
            (true, false) => limits.first_content(Delivery::Stream, 1_000, usual),
            (true, true) => limits.first_content_of_probe(Delivery::Stream, 1_000, usual),
        }
    }
}

pub fn run(cloud: &Cloud, local: &Local, options: &Options) -> Result<(), Error> {
    if !options.wants("return") {
        return Ok(());
    }
    for outage in &OUTAGES {
        let mut returns = Samples::default();
        (0..SEEDS).for_each(|seed| returns.push(return_after(outage, seed).as_secs_f64()));
        let how =
            format!("p50 {:.1} s; {SEEDS} outages of 1 to 10 min by the default times, virtual clock, a turn every 4 s", returns.median());
        line(&format!("return, {}, p95", outage.name), returns.quantile(0.95), RETURN, &how);
    }
    for (name, edge_lives) in [("  503, on sockets, times x100, p50", false), ("  529, the edge lives, on sockets, times x100, p50", true)]
    {
        let returns = on_sockets(cloud, local, if edge_lives { 529 } else { 503 }, edge_lives, options)?;
        let how = format!("p95 {:.1} s; {} outages of 0.6 to 1.7 s, all times a {SCALE}th", returns.quantile(0.95), returns.len());
        remark(name, returns.median(), "s", &how);
    }
    Ok(())
}

/// From the recovery to the first turn that the cloud answers.
fn return_after(outage: &Outage, seed: u64) -> Duration {
    let mut random = Random(seed);
    let mut breakers = Breakers::new(BreakerConfig::default(), seed);
    let mut sessions = Sessions::new(SessionConfig::default());
    let target = Target { host: "https://cloud:443".into(), upstream: "cloud".into(), model: "large".into(), credential: None };
    let key = SessionKey(1);
    let begins = Duration::from_secs(60) + random.below_ms(10_000);
    let recovers = begins + Duration::from_secs(60) + random.below_ms(540_000);
    let (mut now, mut next_turn, mut next_edge) = (Duration::ZERO, random.below_ms(4_000), random.below_ms(1_000));
    loop {
        let is_down = (begins..recovers).contains(&now);
        if now >= next_edge {
            next_edge = now + EDGE_TICK;
            for host in breakers.edge_probes_due(now) {
                breakers.edge_probe_result(&host, if is_down { outage.edge } else { EdgeAnswer::Alive }, now);
            }
        }
        if now >= next_turn {
            let decision = sessions.decide(key, Turn { human: true }, now);
            let permit = breakers.permit(&target, Asked { human_turn: decision.may_return }, now);
            let (mut speaks, mut ended) = (LOCAL, now);
            if decision.first == CLOUD && permit.allows() {
                let outcome = match is_down {
                    true => Outcome::Failed { fault: outage.fault, retry_after: None },
                    false => Outcome::Success { whole_stream: true },
                };
                (speaks, ended) = if is_down { (LOCAL, now + outage.fails_after(permit.probe().is_some())) } else { (CLOUD, now) };
                breakers.report(&target, permit.probe(), outcome, ended);
            }
            if speaks == CLOUD && now >= recovers {
                return now - recovers;
            }
            sessions.spoke(key, Spoken { began: speaks, ended: speaks }, ended);
            // While somebody waits, nothing else is asked.
            now = now.max(ended);
            next_turn = now + TURN_EVERY;
        }
        now += STEP;
    }
}

/// The same through sockets, in seconds as they would be unscaled.
fn on_sockets(cloud: &Cloud, local: &Local, status: u16, edge_lives: bool, options: &Options) -> Result<Samples, Error> {
    let door = local.behind_door(cloud.address(), Asks::Edge, |rules| *rules = rules.clone().scaled(SCALE))?;
    let asked = body(false, 1, "hello");
    let (mut random, mut returns) = (Random(7), Samples::default());
    let mut client = Client::connect(door)?;
    // Whether the cloud answers.
    let mut turn = |session: usize| -> Result<bool, Error> {
        client.send(Say::Whole, &asked, session)?;
        client.finish()?;
        let is_of_cloud = client.is_of_cloud();
        std::thread::sleep(TURN_EVERY / SCALE);
        Ok(is_of_cloud)
    };
    for trial in 0..REAL_TRIALS.min(options.trials) {
        // Each in a conversation of its own, so that none of them flaps.
        turn(trial)?;
        cloud.set_down(Some(status), edge_lives);
        let lasts = Duration::from_millis(600) + random.below_ms(1_000);
        let began = Instant::now();
        while began.elapsed() < lasts {
            turn(trial)?;
        }
        cloud.set_down(None, true);
        let well = Instant::now();
        let mut asked_at = well;
        while !turn(trial)? {
            if well.elapsed() > Duration::from_secs(30) {
                return Err("the cloud is well and nobody asks it".into());
            }
            asked_at = Instant::now();
        }
        returns.push(asked_at.duration_since(well).as_secs_f64() * f64::from(SCALE));
        // Calm, so that the breaker is as new.
        for _ in 0..4 {
            turn(trial)?;
        }
    }
    Ok(returns)
}

struct Random(u64);

impl Random {
    /// A time below so many milliseconds: the high bits of a linear congruence (Knuth's MMIX).
    fn below_ms(&mut self, milliseconds: u64) -> Duration {
        self.0 = self.0.wrapping_add(1).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % milliseconds)
    }
}
