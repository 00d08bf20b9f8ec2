//! How long an upstream may take: what is usual, what is allowed, and a reply followed byte by byte.

use std::time::Duration;

use proptest::prelude::*;
use understudy::gateway::fault::Fault;
use understudy::gateway::limits::{ContentKind, Delivery, Limits, Progress};

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn first_content(input_tokens: u64, p95: Option<f64>) -> Duration {
    Limits::default().first_content(Delivery::Stream, input_tokens, p95.map(s))
}

#[test]
fn the_first_content_has_what_its_prompt_and_its_upstream_take() {
    assert_eq!(first_content(0, None), s(12.0));
    assert_eq!(first_content(25_000, None), s(14.5));
    assert_eq!(first_content(0, Some(3.0)), s(12.0), "quick ones do not shorten it");
    assert_eq!(first_content(0, Some(7.0)), s(21.0));
    assert_eq!(first_content(0, Some(100.0)), s(45.0));
    assert_eq!(first_content(1_000_000, None), s(45.0));
    assert_eq!(first_content(u64::MAX / 1_000_000, Some(1e9)), s(45.0));
}

#[test]
fn a_whole_reply_has_as_long_as_its_tokens_take() {
    let limit = |tokens_max| Limits::default().first_content(Delivery::Whole { tokens_max }, 0, None);
    assert_eq!(limit(Some(60)), s(18.0));
    assert_eq!(limit(Some(1000)), s(112.0));
    assert_eq!(limit(Some(u64::MAX)), s(300.0));
    assert_eq!(limit(None), s(300.0));
}

#[test]
fn the_local_model_begins_to_read_between_two_seconds_and_half_the_limit() {
    let start = |p75: Option<f64>, limit| Limits::default().prefill_start(p75.map(s), s(limit));
    assert_eq!(start(None, 12.0), s(2.0));
    assert_eq!(start(Some(1.0), 12.0), s(2.0));
    assert_eq!(start(Some(4.0), 12.0), s(4.0));
    assert_eq!(start(Some(11.0), 12.0), s(6.0));
    assert_eq!(start(None, 3.0), s(1.5));
}

/// Short, but never shorter than what the upstream usually took, and never longer than for anybody else.
#[test]
fn a_probe_waits_for_what_was_usual() {
    let of_probe = |p95: Option<f64>| Limits::default().first_content_of_probe(Delivery::Stream, 0, p95.map(s));
    assert_eq!(of_probe(Some(0.5)), s(4.0));
    assert_eq!(of_probe(Some(4.0)), s(6.0));
    assert_eq!(of_probe(Some(100.0)), s(45.0));
    assert_eq!(of_probe(None), s(12.0), "nobody knows how long it takes");
    let whole = Delivery::Whole { tokens_max: None };
    assert_eq!(Limits::default().first_content_of_probe(whole, 0, Some(s(0.5))), s(300.0), "it comes with its end");
}

fn waiting() -> Progress {
    Progress::new(Limits::default(), s(12.0), s(0.0))
}

/// Committed with its first content, at 1 s.
fn flowing(kind: ContentKind) -> Progress {
    let mut progress = waiting();
    progress.on_content(kind, 1.0, s(1.0));
    progress
}

#[test]
fn headers_and_pings_are_no_content() {
    let mut progress = waiting();
    for step in 0..119 {
        progress.on_bytes(s(f64::from(step) * 0.1));
        assert_eq!(progress.expired(s(f64::from(step) * 0.1)), None);
    }
    assert_eq!(progress.next_deadline(), (s(12.0), Fault::FirstContentLimit));
    assert_eq!(progress.expired(s(12.0)), Some(Fault::FirstContentLimit));
    assert!(!progress.has_content());
}

#[test]
fn silence_is_noticed_before_a_lack_of_progress() {
    let mut progress = flowing(ContentKind::Text);
    assert_eq!(progress.next_deadline(), (s(16.0), Fault::ByteSilence));
    progress.on_bytes(s(10.0));
    assert_eq!(progress.next_deadline(), (s(25.0), Fault::ByteSilence));
    progress.on_content(ContentKind::Text, 1.0, s(20.0));
    assert_eq!(progress.expired(s(34.9)), None);
    assert_eq!(progress.expired(s(35.0)), Some(Fault::ByteSilence));
}

#[test]
fn pings_hide_no_stall() {
    for (kind, limit) in [(ContentKind::Text, 45.0), (ContentKind::Thinking, 120.0), (ContentKind::Tool, 120.0)] {
        let mut progress = flowing(kind);
        let mut now = 1.0;
        while progress.expired(s(now)).is_none() {
            progress.on_bytes(s(now));
            now += 1.0;
            assert!(now < 200.0, "{kind:?}: never noticed");
        }
        assert_eq!((now, progress.expired(s(now))), (1.0 + limit, Some(Fault::NoProgress)), "{kind:?}");
    }
}

#[test]
fn what_comes_next_decides_how_long() {
    let mut progress = flowing(ContentKind::Thinking);
    progress.on_content(ContentKind::Text, 1.0, s(2.0));
    for second in 2..47 {
        progress.on_bytes(s(f64::from(second)));
    }
    assert_eq!(progress.expired(s(47.0)), Some(Fault::NoProgress));
}

/// When a reply of so many tokens, each second, is given up, within 300 s.
fn given_up(kind: ContentKind, tokens: f64, change: impl Fn(&mut Progress, u64)) -> Option<(Duration, Fault)> {
    let mut progress = flowing(kind);
    for second in 2..300 {
        if let Some(fault) = progress.expired(s(second as f64)) {
            return Some((s(second as f64), fault));
        }
        progress.on_content(kind, tokens, s(second as f64));
        change(&mut progress, second);
    }
    None
}

#[test]
fn a_text_that_trickles_is_handed_over() {
    let nothing = |_: &mut Progress, _| {};
    assert_eq!(given_up(ContentKind::Text, 0.5, nothing), Some((s(61.0), Fault::TooSlow)));
    assert_eq!(given_up(ContentKind::Text, 1.1, nothing), None);
    // Thoughts are summarised and arguments come in one piece: nobody knows how fast they are.
    assert_eq!(given_up(ContentKind::Thinking, 0.1, nothing), None);
    assert_eq!(given_up(ContentKind::Tool, 0.1, nothing), None);
    // Nobody could go on with it.
    assert_eq!(
        given_up(ContentKind::Text, 0.5, |progress, second| if second == 30 {
            progress.put_up_with()
        }),
        None
    );
    // A thought in between begins the text anew.
    let thinks = |progress: &mut Progress, second| {
        if second == 50 {
            progress.on_content(ContentKind::Thinking, 1.0, s(50.5));
        }
    };
    assert_eq!(given_up(ContentKind::Text, 0.5, thinks), Some((s(111.0), Fault::TooSlow)));
}

#[test]
fn a_client_that_reads_slowly_makes_no_upstream_slow() {
    let mut progress = flowing(ContentKind::Text);
    progress.on_content(ContentKind::Text, 1.0, s(2.0));
    progress.on_resumed(s(1002.0));
    progress.on_bytes(s(1002.0));
    assert_eq!(progress.expired(s(1002.0)), Some(Fault::NoProgress), "what came at last is older than any limit");
    progress.on_content(ContentKind::Text, 1.0, s(1002.0));
    assert_eq!(progress.next_deadline(), (s(1017.0), Fault::ByteSilence));
    for second in 1003..1061 {
        progress.on_resumed(s(f64::from(second) - 1.0));
        progress.on_content(ContentKind::Text, 0.1, s(f64::from(second)));
        assert_eq!(progress.expired(s(f64::from(second))), None, "{second}");
    }
    progress.on_content(ContentKind::Text, 0.1, s(1061.0));
    assert_eq!(progress.expired(s(1061.0)), Some(Fault::TooSlow));
}

#[test]
fn scaled_limits_are_the_same_a_hundred_times_faster() {
    let (limits, scaled) = (Limits::default(), Limits::default().scaled(100));
    for tokens in [0, 10_000, 10_000_000] {
        for delivery in [Delivery::Stream, Delivery::Whole { tokens_max: Some(100) }, Delivery::Whole { tokens_max: None }] {
            let one = limits.first_content(delivery, tokens, Some(s(5.0)));
            assert_eq!(scaled.first_content(delivery, tokens, Some(s(0.05))), one / 100);
        }
    }
    let mut progress = Progress::new(scaled, s(0.12), s(0.0));
    assert_eq!(progress.next_deadline(), (s(0.12), Fault::FirstContentLimit));
    for step in 1..=60 {
        assert_eq!(progress.expired(s(0.01 * f64::from(step))), None);
        progress.on_content(ContentKind::Text, 0.1, s(0.01 * f64::from(step)));
    }
    assert_eq!(progress.expired(s(0.61)), Some(Fault::TooSlow));
}

#[derive(Debug, Clone)]
enum Event {
    Bytes,
    Content(ContentKind, f64),
    Resumed,
    PutUpWith,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    /// No fault before its time, and never longer without a question than a byte may take.
    #[test]
    fn every_reply_ends_within_its_limits(
        steps in proptest::collection::vec((0u64..30_000, prop_oneof![
            4 => Just(Event::Bytes),
            2 => (prop_oneof![Just(ContentKind::Text), Just(ContentKind::Thinking), Just(ContentKind::Tool)], 0.0f64..100.0)
                .prop_map(|(kind, tokens)| Event::Content(kind, tokens)),
            1 => Just(Event::Resumed),
            1 => Just(Event::PutUpWith),
        ]), 0..60),
    ) {
        let mut progress = waiting();
        let (mut now, mut last_content, mut last_byte, mut is_put_up_with) = (s(0.0), None, s(0.0), false);
        for (pause_ms, event) in steps {
            now += Duration::from_millis(pause_ms);
            if let Some(fault) = progress.expired(now) {
                match fault {
                    Fault::FirstContentLimit => prop_assert!(last_content.is_none() && now >= s(12.0)),
                    Fault::ByteSilence => prop_assert!(now >= last_byte + s(15.0)),
                    Fault::NoProgress => prop_assert!(now >= last_content.expect("it flowed") + s(45.0)),
                    fault => {
                        prop_assert_eq!(fault, Fault::TooSlow);
                        prop_assert!(!is_put_up_with && now >= last_content.expect("it flowed"));
                    }
                }
                return Ok(());
            }
            match event {
                Event::Bytes => {
                    progress.on_bytes(now);
                    last_byte = now;
                }
                Event::Content(kind, tokens) => {
                    progress.on_content(kind, tokens, now);
                    (last_content, last_byte) = (Some(now), now);
                }
                Event::Resumed => progress.on_resumed(now),
                Event::PutUpWith => {
                    progress.put_up_with();
                    is_put_up_with = true;
                }
            }
            let (deadline, _) = progress.next_deadline();
            prop_assert!(deadline <= now + s(15.0), "nobody waits longer than for a byte");
        }
    }
}
