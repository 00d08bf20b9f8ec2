//! Four hours of one person and an upstream that has a bad day, in milliseconds: what breakers and sessions cost and give together.

use std::time::Duration;

use understudy::gateway::circuit_breaker::{Asked, BreakerConfig, BreakerState, Breakers, EdgeAnswer, Outcome, Target};
use understudy::gateway::fault::Fault;
use understudy::gateway::sessions::{SessionConfig, SessionKey, Sessions, Spoken, Tier, Turn};

use crate::support::random::Random;

const CLOUD: Tier = Tier(0);
const LOCAL: Tier = Tier(1);
const SEEDS: u64 = 40;
const LENGTH_S: u64 = 4 * 3600;
const OUTAGE_FROM_S: u64 = 1800;
/// 2 h 45 min.
const OUTAGE_UNTIL_S: u64 = OUTAGE_FROM_S + 9900;

/// The upstream at a second of the day.
trait Day {
    fn fault(&self, second: u64, random: &mut Random) -> Option<Fault>;
    fn edge(&self, second: u64) -> EdgeAnswer;
}

#[derive(Debug, Default)]
struct Totals {
    requests: u64,
    /// Went up and failed.
    wasted: u64,
    /// By the second of the human turn: whether the cloud spoke.
    human_turns: Vec<(u64, bool)>,
    switches: Vec<u64>,
    closed_at_the_end: bool,
}

/// Bursts of one human turn and some rounds of tools, with pauses in which the person reads; one second is one step.
fn live(day: &dyn Day, seed: u64) -> Totals {
    let (mut random, mut totals) = (Random(seed), Totals::default());
    let mut breakers = Breakers::new(BreakerConfig::default(), seed);
    let mut sessions = Sessions::new(SessionConfig::default());
    let target = Target { host: "https://cloud:443".into(), upstream: "cloud".into(), model: "large".into(), credential: None };
    let (mut next_request, mut rounds_left) = (1, 0);
    for second in 0..LENGTH_S {
        let now = Duration::from_secs(second);
        for host in breakers.edge_probes_due(now) {
            breakers.edge_probe_result(&host, day.edge(second), now);
        }
        if second < next_request {
            continue;
        }
        let human = rounds_left == 0;
        if human {
            rounds_left = random.below(12);
        } else {
            rounds_left -= 1;
        }
        let pause = if rounds_left == 0 { random.between(20, 300) } else { random.between(2, 15) };
        next_request = second + pause;

        totals.requests += 1;
        let key = SessionKey(1);
        let decision = sessions.decide(key, Turn { human }, now);
        let mut spoke = LOCAL;
        if decision.first == CLOUD {
            let permit = breakers.permit(&target, Asked { human_turn: decision.may_return }, now);
            if permit.allows() {
                let fault = day.fault(second, &mut random);
                totals.wasted += u64::from(fault.is_some());
                let outcome = fault.map_or(Outcome::Success { whole_stream: true }, |fault| Outcome::Failed { fault, retry_after: None });
                breakers.report(&target, permit.probe(), outcome, now);
                spoke = if fault.is_none() { CLOUD } else { LOCAL };
            }
        }
        if human {
            totals.human_turns.push((second, spoke == CLOUD));
        }
        let before = sessions.last(key).map_or(CLOUD, |spoke| spoke.last.ended);
        sessions.spoke(key, Spoken { began: spoke, ended: spoke }, now);
        if before != spoke {
            totals.switches.push(second);
        }
    }
    totals.closed_at_the_end = breakers.status(Duration::from_secs(LENGTH_S)).iter().all(|line| line.state == BreakerState::Closed);
    totals
}

struct Outage {
    fault: Fault,
    edge: EdgeAnswer,
}

impl Day for Outage {
    fn fault(&self, second: u64, _: &mut Random) -> Option<Fault> {
        (OUTAGE_FROM_S..OUTAGE_UNTIL_S).contains(&second).then_some(self.fault)
    }
    fn edge(&self, second: u64) -> EdgeAnswer {
        if (OUTAGE_FROM_S..OUTAGE_UNTIL_S).contains(&second) { self.edge } else { EdgeAnswer::Alive }
    }
}

/// Mean of the wasted attempts; every human turn later than `back_within_s` after the end is the cloud's.
fn wasted_in_outage(fault: Fault, edge: EdgeAnswer, back_within_s: u64) -> f64 {
    let mut wasted = 0;
    for seed in 0..SEEDS {
        let totals = live(&Outage { fault, edge }, seed);
        wasted += totals.wasted;
        let after = totals.human_turns.iter().filter(|(second, _)| *second >= OUTAGE_UNTIL_S + back_within_s);
        assert!(after.clone().count() > 5, "SEED={seed}: somebody asks afterwards");
        let missed: Vec<_> = after.filter(|(_, cloud)| !cloud).collect();
        assert!(missed.is_empty(), "SEED={seed}: {fault:?}: not back at {missed:?}, the outage ended at {OUTAGE_UNTIL_S}");
        assert!(totals.closed_at_the_end, "SEED={seed}");
    }
    let mean = wasted as f64 / SEEDS as f64;
    println!("{fault:?}, edge {edge:?}: {mean:.2} attempts wasted in 2 h 45 min");
    mean
}

#[test]
fn a_dead_host_costs_two_attempts_and_is_back_at_once() {
    for fault in [Fault::Refused, Fault::ClosedEarly] {
        let wasted = wasted_in_outage(fault, EdgeAnswer::Unreachable, 7);
        assert!((1.9..=2.5).contains(&wasted), "{fault:?}: {wasted}");
    }
}

#[test]
fn an_edge_that_answers_errors_costs_three() {
    for fault in [Fault::Status(503), Fault::FirstContentLimit] {
        let wasted = wasted_in_outage(fault, EdgeAnswer::ServerError, 7);
        assert!(wasted <= 3.0, "{fault:?}: {wasted}");
    }
}

/// The free question does not see an overload: cooldowns alone decide, and those of failures that cost little are short.
#[test]
fn an_overload_is_over_within_thirty_seconds() {
    let wasted = wasted_in_outage(Fault::Overloaded, EdgeAnswer::Alive, 28);
    assert!(wasted <= 120.0, "at most at each human turn, of about 50 an hour: {wasted}");
    wasted_in_outage(Fault::FirstContentLimit, EdgeAnswer::Alive, 28);
    wasted_in_outage(Fault::ByteSilence, EdgeAnswer::Alive, 66);
}

struct Brownout;

impl Day for Brownout {
    fn fault(&self, second: u64, random: &mut Random) -> Option<Fault> {
        let bad = (OUTAGE_FROM_S..OUTAGE_UNTIL_S).contains(&second) && random.chance(400);
        bad.then_some(Fault::Overloaded)
    }
    fn edge(&self, _: u64) -> EdgeAnswer {
        EdgeAnswer::Alive
    }
}

/// Two requests of five fail for 2 h 45 min.
#[test]
fn a_brownout_is_felt_less_and_ends() {
    let (mut wasted, mut requests) = (0, 0);
    for seed in 0..SEEDS {
        let totals = live(&Brownout, seed);
        wasted += totals.wasted;
        requests += totals.requests;
        // A dwell of at most ten minutes may follow the last switch.
        let late = totals.human_turns.iter().filter(|(second, _)| *second >= OUTAGE_UNTIL_S + 600);
        assert!(late.clone().all(|(_, cloud)| *cloud), "SEED={seed}: not back");
    }
    let without = requests as f64 * 0.4 * 9900.0 / LENGTH_S as f64;
    println!("brownout: {:.1} failures felt, {:.1} without a breaker", wasted as f64 / SEEDS as f64, without / SEEDS as f64);
    assert!(wasted as f64 <= 0.5 * without);
}

struct Flapping;

impl Day for Flapping {
    fn fault(&self, second: u64, _: &mut Random) -> Option<Fault> {
        (OUTAGE_FROM_S..OUTAGE_UNTIL_S)
            .contains(&second)
            .then_some(())
            .filter(|()| (second / 60).is_multiple_of(2))
            .map(|()| Fault::Status(503))
    }
    fn edge(&self, second: u64) -> EdgeAnswer {
        if self.fault(second, &mut Random(0)).is_some() { EdgeAnswer::ServerError } else { EdgeAnswer::Alive }
    }
}

/// A minute well, a minute not, 82 times.
#[test]
fn flapping_is_damped() {
    let (mut late, mut wasted) = (0, 0);
    for seed in 0..SEEDS {
        let totals = live(&Flapping, seed);
        wasted += totals.wasted;
        late += totals.switches.iter().filter(|second| (OUTAGE_UNTIL_S - 3600..OUTAGE_UNTIL_S).contains(*second)).count();
        let after = totals.human_turns.iter().filter(|(second, _)| *second >= OUTAGE_UNTIL_S + 600);
        assert!(after.clone().all(|(_, cloud)| *cloud), "SEED={seed}: not back");
    }
    let (late, wasted) = (late as f64 / SEEDS as f64, wasted as f64 / SEEDS as f64);
    println!("flapping: {wasted:.1} attempts wasted; {late:.1} switches in the last hour, of 60 changes of the upstream");
    assert!(late <= 13.0, "there and back, six times an hour at most: {late}");
}
