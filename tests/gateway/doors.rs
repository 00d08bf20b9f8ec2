//! Doors as the cases set them up: which limits pass in a case, and which are out of reach.

use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::limits::Limits;
use understudy::gateway::rules::Rules;

use crate::support::front_door::{FrontDoor, HANGS, Setup};

pub const DIALECTS: [Dialect; 3] = [Dialect::AnthropicMessages, Dialect::OpenaiChat, Dialect::OpenaiResponses];

/// The kind of upstream that speaks this dialect.
pub fn kind(dialect: Dialect) -> &'static str {
    if dialect == Dialect::AnthropicMessages { "anthropic" } else { "openai" }
}

/// One upstream that speaks this dialect. Retries and breakers have a tenth of the times that users have.
pub fn setup(dialect: Dialect, plan: Plan) -> Setup {
    Setup { plans: vec![plan], kind: kind(dialect), scale: 10, ..Setup::default() }
}

/// With limits as users have them: none of them passes in a case that is not about it.
pub fn door(setup: Setup) -> FrontDoor {
    door_with(setup, |_| {})
}

/// The same with rules that a case changes.
pub fn door_with(setup: Setup, change: impl FnOnce(&mut Rules)) -> FrontDoor {
    FrontDoor::start_with(setup, |rules| {
        rules.limits = Limits::default();
        change(rules);
    })
}

/// Before one upstream that speaks this dialect, with all the times that users have: for faults that show at once.
pub fn unscaled(dialect: Dialect, plan: Plan) -> FrontDoor {
    FrontDoor::start(Setup { scale: 1, ..setup(dialect, plan) })
}

/// Before an upstream that somebody else runs.
pub fn door_to(dialect: Dialect, url: String, setup: Setup) -> FrontDoor {
    FrontDoor::start(Setup { urls: vec![url], kind: kind(dialect), scale: 1, ..setup })
}

/// As [`unscaled`], with a hundredth of the one limit that a case is about, which `choose` takes over from the second into the first. All
/// others are out of reach: a machine may stall for as long as a scaled limit lasts.
pub fn limited(dialect: Dialect, plan: Plan, choose: impl FnOnce(&mut Limits, &Limits)) -> FrontDoor {
    limited_in(dialect, Setup { plans: vec![plan], ..Setup::default() }, choose)
}

/// The same in another setup.
pub fn limited_in(dialect: Dialect, setup: Setup, choose: impl FnOnce(&mut Limits, &Limits)) -> FrontDoor {
    FrontDoor::start_with(Setup { kind: kind(dialect), ..setup }, |rules| {
        let scaled = rules.limits.clone();
        rules.limits = Limits {
            connect: HANGS,
            first_content: HANGS,
            first_content_max: HANGS,
            whole_reply_max: HANGS,
            byte_silence: HANGS,
            progress_text: HANGS,
            progress_thinking: HANGS,
            progress_tool: HANGS,
            prefill_after: HANGS,
            ..Limits::default()
        };
        choose(&mut rules.limits, &scaled);
    })
}
