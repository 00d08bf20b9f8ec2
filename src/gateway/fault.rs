//! What can go wrong with an upstream, and whom it speaks against.

/// Why an upstream did not answer, or did not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing listens, or no route leads there.
    Refused,
    /// No connection within its limit.
    ConnectTimeout,
    /// The name has no address.
    NameUnknown,
    /// The certificate is not one for this host, or the handshake failed.
    Tls,
    /// The connection ended before a status line.
    ClosedEarly,
    /// No content within its limit, with or without headers.
    FirstContentLimit,
    /// No whole reply within its limit, where it was not to be streamed.
    WholeReplyLimit,
    /// Content, but slower than anyone reads.
    TooSlow,
    /// No byte for the limit, after the first content.
    ByteSilence,
    /// Bytes, but no content for the limit.
    NoProgress,
    /// 529, or an error event that says the same.
    Overloaded,
    /// 429 that asks to wait.
    RateLimited,
    /// 429 or 402 that no waiting of minutes helps: a quota, a spending limit.
    QuotaSpent,
    /// 5xx.
    Status(u16),
    /// 401 or 403.
    Unauthorised(u16),
    /// A page, a redirect, a captive portal: something answered that is not the API.
    NotTheApi,
    /// An error event within a stream.
    ErrorEvent,
    /// The connection ended in the middle of the reply, or cleanly without the events that end one.
    Cut,
    /// Events that are not JSON, more than a few.
    Malformed,
    /// A reply, an event or headers beyond what is held.
    TooLarge,
}

/// What a fault speaks against: the narrowest thing that is to be avoided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Nobody there answers.
    Host,
    /// This model of this upstream.
    Model,
    /// What this credential may do.
    Credential,
}

impl Fault {
    pub fn scope(self) -> Scope {
        match self {
            Self::Refused | Self::ConnectTimeout | Self::NameUnknown | Self::Tls | Self::NotTheApi => Scope::Host,
            Self::RateLimited | Self::QuotaSpent | Self::Unauthorised(_) => Scope::Credential,
            _ => Scope::Model,
        }
    }

    /// Its name in the journal, in headers and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::NameUnknown => "name_unknown",
            Self::Tls => "tls",
            Self::ClosedEarly => "closed_early",
            Self::FirstContentLimit => "first_content_limit",
            Self::WholeReplyLimit => "whole_reply_limit",
            Self::TooSlow => "too_slow",
            Self::ByteSilence => "byte_silence",
            Self::NoProgress => "no_progress",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::QuotaSpent => "quota_spent",
            Self::Status(_) => "server_error",
            Self::Unauthorised(_) => "unauthorised",
            Self::NotTheApi => "not_the_api",
            Self::ErrorEvent => "error_event",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        }
    }
}
