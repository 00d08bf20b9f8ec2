//! Why the local model answers in place of an upstream.

use super::fault::Fault;

/// Why the local model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An upstream failed just now.
    Failed(Fault),
    /// It failed a moment ago and is left in peace.
    Resting(Fault),
    /// This conversation goes on with who has it until a person speaks.
    Stays,
    /// A person said so.
    Told,
    /// The prompt is too long for the upstream.
    ContextTooLong,
    /// No upstream takes this model or this protocol.
    NoUpstream,
}

impl Reason {
    /// As headers, the journal and the notice have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed(fault) | Self::Resting(fault) => fault.name(),
            Self::Stays => "stays_until_a_human_turn",
            Self::Told => "told_to",
            Self::ContextTooLong => "context_too_long",
            Self::NoUpstream => "no_upstream",
        }
    }
}
