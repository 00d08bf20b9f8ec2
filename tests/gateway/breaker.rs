//! The promises of the circuit breakers, one by one, and under random events: never two probes, never closed by a rate limit, a
//! `Retry-After` is a floor, nobody's own mistake counts, and whoever is well again is asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use understudy::gateway::circuit_breaker::{
    Asked, BreakerConfig, BreakerState, Breakers, CredentialId, EdgeAnswer, Outcome, Permit, ProbeId, ScopeKey, Target, Use,
};
use understudy::gateway::fault::{Fault, Scope};

const HUMAN: Asked = Asked { human_turn: true };
const TOOLS: Asked = Asked { human_turn: false };
const WHOLE: Outcome = Outcome::Success { whole_stream: true };

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn target(model: &str, credential: u64) -> Target {
    Target { host: "https://cloud:443".into(), upstream: "cloud".into(), model: model.into(), credential: Some(CredentialId(credential)) }
}

fn failed(fault: Fault) -> Outcome {
    Outcome::Failed { fault, retry_after: None }
}

fn asks_to_wait(fault: Fault, seconds: u64) -> Outcome {
    Outcome::Failed { fault, retry_after: Some(Duration::from_secs(seconds)) }
}

/// Without jitter and without the free question.
fn plain() -> Breakers {
    Breakers::new(BreakerConfig { jitter_share: 0.0, edge_probe_interval: None, ..BreakerConfig::default() }, 1)
}

/// Asks and reports at once.
fn request(breakers: &mut Breakers, target: &Target, outcome: Outcome, now: Duration) -> Permit {
    let permit = breakers.permit(target, HUMAN, now);
    if permit.allows() {
        breakers.report(target, permit.probe(), outcome, now);
    }
    permit
}

fn state(breakers: &Breakers, scope: Scope, now: Duration) -> BreakerState {
    let lines = breakers.status(now);
    lines.iter().find(|line| line.key.scope() == scope).map_or(BreakerState::Closed, |line| line.state)
}

/// Two overloads, at 0 s: open until 5 s.
fn opened() -> (Breakers, Target) {
    let (mut breakers, target) = (plain(), target("large", 1));
    request(&mut breakers, &target, failed(Fault::Overloaded), s(0.0));
    request(&mut breakers, &target, failed(Fault::Overloaded), s(0.0));
    assert_eq!(state(&breakers, Scope::Model, s(0.0)), BreakerState::Open);
    (breakers, target)
}

#[test]
fn two_failures_in_a_row_open_and_a_success_between_them_does_not() {
    for fault in [Fault::Status(500), Fault::FirstContentLimit, Fault::Cut, Fault::ClosedEarly, Fault::ErrorEvent] {
        let (mut breakers, target) = (plain(), target("large", 1));
        assert_eq!(request(&mut breakers, &target, failed(fault), s(0.0)), Permit::Closed);
        request(&mut breakers, &target, WHOLE, s(1.0));
        request(&mut breakers, &target, failed(fault), s(2.0));
        assert_eq!(breakers.permit(&target, HUMAN, s(3.0)), Permit::Closed, "{fault:?}");
        request(&mut breakers, &target, failed(fault), s(3.0));
        let open = Permit::Open { scope: Scope::Model, fault, until: Some(s(8.0)) };
        assert_eq!(breakers.permit(&target, HUMAN, s(4.0)), open);
    }
}

#[test]
fn half_of_five_within_a_minute_opens() {
    let outcomes = [WHOLE, WHOLE, failed(Fault::Overloaded), WHOLE, failed(Fault::Overloaded), WHOLE, failed(Fault::Overloaded)];
    let at = |pause: f64| {
        let (mut breakers, target) = (plain(), target("large", 1));
        // 3 of 7 are less than half.
        for (number, outcome) in outcomes.iter().enumerate() {
            request(&mut breakers, &target, *outcome, s(pause * number as f64));
        }
        assert_eq!(state(&breakers, Scope::Model, s(0.0)), BreakerState::Closed);
        request(&mut breakers, &target, WHOLE, s(pause * 7.0));
        // 4 of 9, then 5 of 11 - and 5 of 10 would be half.
        request(&mut breakers, &target, failed(Fault::Overloaded), s(pause * 8.0));
        breakers.retried(&target, Fault::Overloaded, s(pause * 9.0));
        state(&breakers, Scope::Model, s(0.0))
    };
    assert_eq!(at(1.0), BreakerState::Open);
    assert_eq!(at(30.0), BreakerState::Closed, "two in a minute are no statistic");
}

#[test]
fn the_narrowest_scope_is_avoided() {
    let (mut breakers, overloaded) = opened();
    assert_eq!(breakers.permit(&target("small", 1), HUMAN, s(1.0)), Permit::Closed);
    assert!(!breakers.permit(&overloaded, HUMAN, s(1.0)).allows());

    let mut breakers = plain();
    request(&mut breakers, &target("large", 1), asks_to_wait(Fault::QuotaSpent, 3600), s(0.0));
    assert!(!breakers.permit(&target("small", 1), HUMAN, s(3599.0)).allows());
    assert_eq!(breakers.permit(&target("large", 2), HUMAN, s(1.0)), Permit::Closed, "another key");
    assert!(breakers.permit(&target("small", 1), HUMAN, s(3600.0)).allows());

    let mut breakers = plain();
    request(&mut breakers, &target("large", 1), failed(Fault::Refused), s(0.0));
    request(&mut breakers, &target("small", 2), failed(Fault::Refused), s(0.0));
    let elsewhere = Target { host: "https://other:443".into(), upstream: "other".into(), ..target("large", 3) };
    assert!(!breakers.permit(&target("third", 3), HUMAN, s(1.0)).allows(), "every model of a dead host");
    assert_eq!(breakers.permit(&elsewhere, HUMAN, s(1.0)), Permit::Closed);
}

#[test]
fn cooldowns_double_up_to_what_a_failure_costs() {
    let (cheap, dear) = ([5.0, 10.0, 20.0, 22.0, 22.0, 22.0], [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]);
    for (fault, expected) in [(Fault::FirstContentLimit, cheap), (Fault::ByteSilence, dear), (Fault::WholeReplyLimit, dear)] {
        let (mut breakers, target) = (plain(), target("large", 1));
        request(&mut breakers, &target, failed(fault), s(0.0));
        let mut now = s(0.0);
        for cooldown in expected {
            request(&mut breakers, &target, failed(fault), now);
            let Permit::Open { until: Some(until), .. } = breakers.permit(&target, HUMAN, now) else { panic!("open") };
            assert_eq!(until - now, s(cooldown), "{fault:?}");
            now = until;
        }
        // Closed, and open again: from the beginning.
        request(&mut breakers, &target, WHOLE, now);
        request(&mut breakers, &target, WHOLE, now);
        assert_eq!(state(&breakers, Scope::Model, now), BreakerState::Closed);
        request(&mut breakers, &target, failed(fault), now);
        request(&mut breakers, &target, failed(fault), now);
        let again = Permit::Open { scope: Scope::Model, fault, until: Some(now + s(5.0)) };
        assert_eq!(breakers.permit(&target, HUMAN, now), again);
    }
}

#[test]
fn jitter_is_a_tenth_either_way() {
    let cooldowns = (0..200).map(|seed| {
        let mut breakers = Breakers::new(BreakerConfig { edge_probe_interval: None, ..BreakerConfig::default() }, seed);
        request(&mut breakers, &target("large", 1), failed(Fault::Overloaded), s(0.0));
        request(&mut breakers, &target("large", 1), failed(Fault::Overloaded), s(0.0));
        breakers.status(s(0.0)).iter().find_map(|line| line.cooldown_left).expect("one is open")
    });
    let cooldowns: Vec<Duration> = cooldowns.collect();
    assert!(cooldowns.iter().all(|cooldown| (s(4.5)..=s(5.5)).contains(cooldown)));
    let share = |range: std::ops::Range<f64>| cooldowns.iter().filter(|cooldown| range.contains(&cooldown.as_secs_f64())).count();
    assert!(share(4.5..4.75) > 20 && share(5.25..5.5) > 20, "spread over all of it");
}

#[test]
fn two_successes_close_and_one_of_them_is_whole() {
    let (mut breakers, target) = opened();
    let part = Outcome::Success { whole_stream: false };
    for (outcome, after) in [(part, BreakerState::HalfOpen), (part, BreakerState::HalfOpen), (WHOLE, BreakerState::Closed)] {
        assert!(request(&mut breakers, &target, outcome, s(6.0)).probe().is_some());
        assert_eq!(state(&breakers, Scope::Model, s(6.0)), after);
    }
    let (mut breakers, target) = opened();
    request(&mut breakers, &target, WHOLE, s(6.0));
    assert_eq!(state(&breakers, Scope::Model, s(6.0)), BreakerState::HalfOpen);
    request(&mut breakers, &target, failed(Fault::Cut), s(6.0));
    assert_eq!(state(&breakers, Scope::Model, s(6.0)), BreakerState::Open);
}

#[test]
fn a_probe_begins_at_a_human_turn_and_goes_on_at_any() {
    let (mut breakers, target) = opened();
    assert_eq!(breakers.permit(&target, TOOLS, s(6.0)), Permit::Open { scope: Scope::Model, fault: Fault::Overloaded, until: None });
    request(&mut breakers, &target, WHOLE, s(6.0));
    assert!(breakers.permit(&target, TOOLS, s(7.0)).probe().is_some(), "the conversation that came back goes on");
}

#[test]
fn a_probe_that_never_reports_frees_itself_and_is_not_heard_later() {
    let (mut breakers, target) = opened();
    let Permit::Probe(lost) = breakers.permit(&target, HUMAN, s(6.0)) else { panic!("a probe") };
    assert!(!breakers.permit(&target, HUMAN, s(305.9)).allows());
    let Permit::Probe(second) = breakers.permit(&target, HUMAN, s(306.0)) else { panic!("free again") };
    breakers.report(&target, Some(lost), failed(Fault::Overloaded), s(307.0));
    assert_eq!(state(&breakers, Scope::Model, s(307.0)), BreakerState::HalfOpen);
    breakers.report(&target, Some(second), Outcome::Abandoned, s(308.0));
    assert!(breakers.permit(&target, HUMAN, s(308.0)).probe().is_some(), "a client that left frees its probe");
}

#[test]
fn rate_limits_count_in_the_window_alone() {
    let (mut breakers, target) = (plain(), target("large", 1));
    for _ in 0..4 {
        request(&mut breakers, &target, failed(Fault::RateLimited), s(0.0));
        assert_eq!(state(&breakers, Scope::Credential, s(0.0)), BreakerState::Closed);
    }
    request(&mut breakers, &target, failed(Fault::RateLimited), s(0.0));
    assert_eq!(state(&breakers, Scope::Credential, s(0.0)), BreakerState::Open);
    assert_eq!(state(&breakers, Scope::Model, s(0.0)), BreakerState::Closed);
    // Of a model that was overloaded it fails the probe.
    let (mut breakers, target) = opened();
    request(&mut breakers, &target, failed(Fault::RateLimited), s(6.0));
    assert_eq!(state(&breakers, Scope::Model, s(6.0)), BreakerState::Open);
}

#[test]
fn what_the_upstream_asks_for_is_capped() {
    for (fault, cap) in [(Fault::RateLimited, 600.0), (Fault::Overloaded, 600.0), (Fault::QuotaSpent, 86_400.0)] {
        let (mut breakers, target) = (plain(), target("large", 1));
        request(&mut breakers, &target, Outcome::Failed { fault, retry_after: Some(Duration::MAX) }, s(1.0));
        assert!(!breakers.permit(&target, HUMAN, s(cap + 0.9)).allows(), "{fault:?}");
        assert!(breakers.permit(&target, HUMAN, s(cap + 1.0)).allows(), "{fault:?}");
    }
    // A short one is waited out by the request itself.
    let (mut breakers, target) = (plain(), target("large", 1));
    request(&mut breakers, &target, asks_to_wait(Fault::RateLimited, 3), s(0.0));
    assert_eq!(breakers.permit(&target, HUMAN, s(0.0)), Permit::Closed);
}

/// While a probe is under way, a request of before the opening is told to wait: the probe that then fails, or succeeds, forgets none of it.
#[test]
fn what_a_latecomer_was_asked_outlives_the_probe() {
    for outcome in [failed(Fault::Overloaded), WHOLE] {
        let (mut breakers, target) = opened();
        request(&mut breakers, &target, WHOLE, s(6.0));
        let Permit::Probe(probe) = breakers.permit(&target, HUMAN, s(7.0)) else { panic!("a probe") };
        breakers.report(&target, None, asks_to_wait(Fault::Overloaded, 100), s(8.0));
        breakers.report(&target, Some(probe), outcome, s(9.0));
        assert!(!breakers.permit(&target, HUMAN, s(107.9)).allows(), "{outcome:?}");
        assert!(breakers.permit(&target, HUMAN, s(108.0)).probe().is_some(), "{outcome:?}");
    }
}

#[test]
fn a_sign_of_life_of_before_the_opening_is_none() {
    let (mut breakers, target) = (Breakers::new(BreakerConfig::default(), 1), target("large", 1));
    request(&mut breakers, &target, failed(Fault::Overloaded), s(0.0));
    request(&mut breakers, &target, failed(Fault::Overloaded), s(0.0));
    breakers.edge_probes_due(s(1.0));
    breakers.edge_probe_result(&target.host, EdgeAnswer::Alive, s(1.0));
    assert!(request(&mut breakers, &target, failed(Fault::Overloaded), s(6.0)).allows());
    assert!(!breakers.permit(&target, HUMAN, s(30.0)).allows(), "nobody has asked since it opened again");
    breakers.edge_probe_result(&target.host, EdgeAnswer::Alive, s(30.0));
    assert!(breakers.permit(&target, HUMAN, s(30.0)).allows());
}

#[test]
fn the_free_question_goes_first() {
    let (mut breakers, target) = (Breakers::new(BreakerConfig::default(), 1), target("large", 1));
    assert!(breakers.edge_probes_due(s(0.0)).is_empty(), "nobody is asked while all is well");
    request(&mut breakers, &target, failed(Fault::Refused), s(0.0));
    request(&mut breakers, &target, failed(Fault::Refused), s(0.0));
    assert_eq!(breakers.edge_probes_due(s(0.0)), std::slice::from_ref(&target.host));
    assert!(breakers.edge_probes_due(s(4.9)).is_empty());
    assert_eq!(breakers.edge_probes_due(s(5.0)), std::slice::from_ref(&target.host));
    breakers.edge_probe_result(&target.host, EdgeAnswer::Unreachable, s(5.0));
    assert!(!breakers.permit(&target, HUMAN, s(3600.0 * 10.0)).allows(), "as long as nobody answers");
    breakers.edge_probe_result(&target.host, EdgeAnswer::Alive, s(3600.0 * 10.0));
    assert!(breakers.permit(&target, HUMAN, s(3600.0 * 10.0)).allows());
}

#[test]
fn a_host_that_comes_back_cuts_the_cooldown_but_not_what_it_asked_for() {
    for (asked, at) in [(None, 100.0), (Some(300), 400.0)] {
        let (mut breakers, target) = (Breakers::new(BreakerConfig::default(), 1), target("large", 1));
        let mut now = s(0.0);
        request(&mut breakers, &target, failed(Fault::FirstContentLimit), now);
        // Until its cooldown is nearly a minute.
        while now < s(100.0) {
            breakers.edge_probes_due(now);
            breakers.edge_probe_result(&target.host, EdgeAnswer::Alive, now);
            let outcome =
                Outcome::Failed { fault: Fault::FirstContentLimit, retry_after: asked.map(Duration::from_secs).filter(|_| now == s(0.0)) };
            request(&mut breakers, &target, outcome, now);
            now += s(1.0);
        }
        breakers.edge_probe_result(&target.host, EdgeAnswer::Unreachable, now);
        breakers.report(
            &target,
            None,
            Outcome::Failed { fault: Fault::FirstContentLimit, retry_after: asked.map(Duration::from_secs) },
            now,
        );
        assert!(!breakers.permit(&target, HUMAN, now).allows());
        breakers.edge_probe_result(&target.host, EdgeAnswer::Alive, now);
        assert!(!breakers.permit(&target, HUMAN, s(at - 0.1)).allows() || asked.is_none());
        assert!(breakers.permit(&target, HUMAN, s(at)).allows(), "{asked:?}");
    }
}

#[test]
fn a_host_that_only_ever_answers_errors_is_tried_after_long() {
    let (mut breakers, target) = (Breakers::new(BreakerConfig::default(), 1), target("large", 1));
    request(&mut breakers, &target, failed(Fault::Status(500)), s(0.0));
    request(&mut breakers, &target, failed(Fault::Status(500)), s(0.0));
    breakers.edge_probes_due(s(1.0));
    breakers.edge_probe_result(&target.host, EdgeAnswer::ServerError, s(1.0));
    assert!(!breakers.permit(&target, HUMAN, s(5399.0)).allows());
    assert!(breakers.permit(&target, HUMAN, s(5400.0)).allows());
}

#[test]
fn hosts_are_asked_less_often_while_nobody_waits() {
    let (mut breakers, target) = (Breakers::new(BreakerConfig::default(), 1), target("large", 1));
    request(&mut breakers, &target, failed(Fault::Refused), s(0.0));
    request(&mut breakers, &target, failed(Fault::Refused), s(0.0));
    let mut asked = |from: u32, to: u32| (from..to).filter(|second| !breakers.edge_probes_due(s(f64::from(*second))).is_empty()).count();
    assert_eq!(asked(0, 600), 120);
    assert_eq!(asked(600, 1200), 10);
}

#[test]
fn a_person_decides() {
    let (mut breakers, target) = opened();
    breakers.set_use(Use::Cloud);
    assert!(breakers.permit(&target, TOOLS, s(1.0)).probe().is_some());
    assert_eq!(breakers.permit(&target, TOOLS, s(1.0)), Permit::Closed, "also beside the probe");
    breakers.set_use(Use::Local);
    assert_eq!(breakers.permit(&target, HUMAN, s(1000.0)), Permit::ToldLocal);
    breakers.set_use(Use::Auto);
    assert!(breakers.permit(&target, HUMAN, s(1000.0)).allows());
}

#[test]
fn names_that_clients_choose_cost_bounded_memory() {
    let mut breakers = Breakers::new(BreakerConfig { scopes_max: 64, edge_probe_interval: None, ..BreakerConfig::default() }, 1);
    request(&mut breakers, &target("large", 0), failed(Fault::Refused), s(0.0));
    request(&mut breakers, &target("large", 0), failed(Fault::Refused), s(0.0));
    for name in 0..10_000 {
        let target = target(&name.to_string(), name);
        breakers.report(&target, None, failed(Fault::Overloaded), s(1.0));
    }
    assert_eq!(breakers.status(s(2.0)).len(), 64);
    assert_eq!(state(&breakers, Scope::Host, s(2.0)), BreakerState::Open, "what every request uses is not forgotten");
}

#[derive(Debug, Clone)]
enum Event {
    Ask {
        model: bool,
        credential: bool,
        human: bool,
    },
    /// Of those under way, one, by its number.
    Report(usize, Outcome),
    Edge(EdgeAnswer),
}

fn faults() -> impl Strategy<Value = Fault> {
    use Fault::*;
    prop_oneof![
        4 => Just(Overloaded),
        4 => Just(RateLimited),
        1 => Just(QuotaSpent),
        2 => Just(Refused),
        2 => Just(FirstContentLimit),
        1 => Just(Cut),
        1 => Just(Unauthorised(401)),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => any::<bool>().prop_map(|whole_stream| Outcome::Success { whole_stream }),
        6 => (faults(), proptest::option::weighted(0.3, 0u64..1200))
            .prop_map(|(fault, after)| Outcome::Failed { fault, retry_after: after.map(Duration::from_secs) }),
        1 => Just(Outcome::Abandoned),
        1 => Just(Outcome::Neutral),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(model, credential, human)| Event::Ask { model, credential, human }),
        4 => (0usize..8, outcomes()).prop_map(|(number, outcome)| Event::Report(number, outcome)),
        1 => prop_oneof![Just(EdgeAnswer::Alive), Just(EdgeAnswer::ServerError), Just(EdgeAnswer::Unreachable)].prop_map(Event::Edge),
    ]
}

type States = BTreeMap<ScopeKey, (BreakerState, bool)>;

fn states(breakers: &Breakers, now: Duration) -> States {
    breakers.status(now).into_iter().map(|line| (line.key, (line.state, line.probing))).collect()
}

fn keys(target: &Target) -> Vec<ScopeKey> {
    let model = ScopeKey::Model { upstream: target.upstream.clone(), model: target.model.clone() };
    let credential = target.credential.map(ScopeKey::Credential);
    [Some(ScopeKey::Host(target.host.clone())), Some(model), credential].into_iter().flatten().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens(steps in proptest::collection::vec((0u64..40_000, events()), 1..120), seed in any::<u64>()) {
        let mut breakers = Breakers::new(BreakerConfig::default(), seed);
        let mut now = Duration::ZERO;
        let mut under_way: Vec<(Target, Option<ProbeId>)> = Vec::new();
        // Who holds which scope, and until when.
        let mut held: BTreeMap<ScopeKey, Vec<(ProbeId, Duration)>> = BTreeMap::new();
        let mut floors: BTreeMap<ScopeKey, Duration> = BTreeMap::new();
        for (pause_ms, event) in steps {
            now += Duration::from_millis(pause_ms);
            breakers.edge_probes_due(now);
            let before = states(&breakers, now);
            match event {
                Event::Edge(answer) => breakers.edge_probe_result("https://cloud:443", answer, now),
                Event::Ask { model, credential, human } => {
                    let target = target(if model { "large" } else { "small" }, u64::from(credential));
                    let permit = breakers.permit(&target, Asked { human_turn: human }, now);
                    if permit.allows() {
                        for key in keys(&target) {
                            prop_assert!(floors.get(&key).is_none_or(|floor| now >= *floor), "let through before the floor of {key:?}");
                            let was = before.get(&key).map_or(BreakerState::Closed, |(state, _)| *state);
                            prop_assert!(was == BreakerState::Closed || permit.probe().is_some(), "let through an open one");
                            if let (Some(id), true) = (permit.probe(), was != BreakerState::Closed) {
                                let holders = held.entry(key).or_default();
                                holders.retain(|(_, deadline)| now < *deadline);
                                prop_assert!(holders.is_empty(), "two probes");
                                holders.push((id, now + Duration::from_secs(300)));
                            }
                        }
                        under_way.push((target, permit.probe()));
                    } else {
                        prop_assert!(before.values().any(|(state, _)| *state != BreakerState::Closed), "refused with all closed");
                        let Permit::Open { until, .. } = permit else { panic!("nobody said local") };
                        prop_assert!(until.is_none_or(|until| until > now));
                    }
                }
                Event::Report(number, outcome) if number < under_way.len() => {
                    let (target, probe) = under_way.swap_remove(number);
                    breakers.report(&target, probe, outcome, now);
                    held.values_mut().for_each(|holders| holders.retain(|(id, _)| Some(*id) != probe));
                    let after = states(&breakers, now);
                    let closed = |key: &ScopeKey| {
                        before.get(key).is_some_and(|(state, _)| *state != BreakerState::Closed) && after[key].0 == BreakerState::Closed
                    };
                    match outcome {
                        Outcome::Failed { fault, retry_after } => {
                            let own = keys(&target).into_iter().find(|key| key.scope() == fault.scope()).expect("all three");
                            prop_assert!(!closed(&own), "closed by {fault:?}");
                            if matches!(fault, Fault::RateLimited | Fault::QuotaSpent) {
                                let narrow = keys(&target).into_iter().filter(|key| key.scope() != Scope::Host);
                                prop_assert!(narrow.into_iter().all(|key| !closed(&key)), "closed by a rate limit");
                            }
                            if let Some(after) = retry_after.filter(|after| *after > Duration::from_secs(3)) {
                                let cap = if fault == Fault::QuotaSpent { 86_400 } else { 600 };
                                let floor = floors.entry(own).or_default();
                                *floor = (*floor).max(now + after.min(Duration::from_secs(cap)));
                            }
                        }
                        Outcome::Success { .. } => {}
                        Outcome::Abandoned | Outcome::Neutral => {
                            for key in keys(&target) {
                                let was = before.get(&key).map_or(BreakerState::Closed, |(state, _)| *state);
                                prop_assert_eq!(was, after[&key].0, "{:?} changed a state", outcome);
                            }
                        }
                    }
                }
                Event::Report(..) => {}
            }
        }
        // All is well from now on: within the longest floor, a lost probe's deadline and the cooldown, everything closes.
        now = now.max(floors.values().copied().max().unwrap_or_default()) + Duration::from_secs(300 + 66);
        for _ in 0..8 {
            now += Duration::from_secs(6);
            breakers.edge_probes_due(now);
            breakers.edge_probe_result("https://cloud:443", EdgeAnswer::Alive, now);
            for (model, credential) in [("large", 0), ("large", 1), ("small", 0), ("small", 1)] {
                request(&mut breakers, &target(model, credential), WHOLE, now);
            }
        }
        let not_closed = breakers.status(now).into_iter().find(|line| line.state != BreakerState::Closed);
        prop_assert!(not_closed.is_none(), "starved: {not_closed:?}");
    }
}
