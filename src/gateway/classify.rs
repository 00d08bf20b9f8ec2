//! Decides what a reply is, from its status, its headers and the beginning of its body: an answer to relay, or a failure of the upstream.
//!
//! A mistake of the client and a refusal are answers. A refusal is relayed whatever else it looks like: nothing here routes around one.
//! What is no answer of the API (a page, a redirect, an empty success) is never shown to a client.
#![deny(clippy::disallowed_methods)]

mod error_body;
mod http_date;

use std::time::Duration;

use super::fault::Fault;
use super::headers::Headers;
use error_body::ErrorBody;

/// What has come of a reply.
pub struct Head<'a, H: Headers + ?Sized> {
    pub status: u16,
    pub headers: &'a H,
    /// Decoded, as far as it is here; of a stream it may be nothing yet.
    pub body_start: &'a [u8],
    /// There is no more of it.
    pub body_ended: bool,
}

/// What the client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Server-sent events.
    Stream,
    /// One JSON document.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the client as it is.
    Relay(ReplyKind),
    /// The prompt does not fit there. Asking again is of no use; whoever has more room may answer.
    ContextTooLong,
    Failed {
        fault: Fault,
        /// As the upstream asks, at most [`RETRY_AFTER_MAX`]; of a quota, until it is there again.
        retry_after: Option<Duration>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    Success,
    /// What was asked for is not done, by decision of the provider.
    Refusal,
    /// Another 4xx.
    ClientError,
    /// 401 or 403: relayed, unless it is an outage of logins.
    Unauthorised(u16),
}

/// No header makes anybody wait longer.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// A rate limit that lasts longer than this is a quota.
const RATE_LIMIT_MAX: Duration = Duration::from_secs(600);
/// A quota comes back within a month; longer ones are nonsense, and no quota.
const QUOTA_MAX: Duration = Duration::from_secs(31 * 24 * 3600);

/// `now_unix_s` is the wall clock: servers name the time at which they may be asked again.
pub fn classify<H: Headers + ?Sized>(head: &Head<'_, H>, expected: Expected, now_unix_s: u64) -> Verdict {
    match head.status {
        200..300 => success(head, expected, now_unix_s),
        400.. => error(head, now_unix_s),
        // Redirects are not followed: a credential goes to the host it was meant for.
        _ => failed(Fault::NotTheApi),
    }
}

/// An error that comes as an event of a stream, or as the body of a success: `data` is its JSON.
pub fn error_event(data: &[u8]) -> Verdict {
    let body = ErrorBody::read(data);
    if body.is_refusal() {
        Verdict::Relay(ReplyKind::Refusal)
    } else if body.is_context_too_long() {
        Verdict::ContextTooLong
    } else if body.is_overload() {
        failed(Fault::Overloaded)
    } else if body.is_quota() {
        failed(Fault::QuotaSpent)
    } else if body.is_rate_limit() {
        failed(Fault::RateLimited)
    } else if body.is_client_error() {
        Verdict::Relay(ReplyKind::ClientError)
    } else {
        failed(Fault::ErrorEvent)
    }
}

fn success<H: Headers + ?Sized>(head: &Head<'_, H>, expected: Expected, now_unix_s: u64) -> Verdict {
    let body = without_blanks(head.body_start);
    if body.is_empty() && head.body_ended || is_page(head) {
        return failed(Fault::NotTheApi);
    }
    let is_json = body.starts_with(b"{") || body.starts_with(b"[");
    if is_json && head.body_ended && ErrorBody::is_error(body) {
        return with_times(error_event(body), head.headers, now_unix_s);
    }
    let right = match (media_type(head.headers).as_deref(), expected) {
        (Some("text/event-stream"), Expected::Stream) => !is_json,
        (Some(kind), Expected::Json) => kind == "application/json" || kind.ends_with("+json"),
        (Some(_), Expected::Stream) => false,
        // Without a type, its first bytes have to do.
        (None, Expected::Json) => is_json || body.is_empty(),
        (None, Expected::Stream) => body.is_empty() || [&b"data:"[..], b"event:", b"id:", b":"].iter().any(|start| body.starts_with(start)),
    };
    if right { Verdict::Relay(ReplyKind::Success) } else { failed(Fault::NotTheApi) }
}

fn error<H: Headers + ?Sized>(head: &Head<'_, H>, now_unix_s: u64) -> Verdict {
    let page = is_page(head);
    // The words of a page are nobody's error: its footer may well speak of a usage policy.
    let body = if page { ErrorBody::default() } else { ErrorBody::read(head.body_start) };
    // Failures of the upstream are no refusals by their prose alone.
    if body.is_named_refusal() || matches!(head.status, 400 | 403 | 422 | 451) && body.is_refusal() {
        return Verdict::Relay(ReplyKind::Refusal);
    }
    let verdict = match head.status {
        // The login page of a network, a proxy that wants a password, a wall before the API.
        407 | 511 => failed(Fault::NotTheApi),
        401 | 403 | 404 | 451 if page => failed(Fault::NotTheApi),
        400 if body.is_context_too_long() => Verdict::ContextTooLong,
        402 => failed(Fault::QuotaSpent),
        400 | 403 | 429 if body.is_quota() => failed(Fault::QuotaSpent),
        429 if subscription_is_spent(head.headers) => failed(Fault::QuotaSpent),
        429 => failed(Fault::RateLimited),
        401 | 403 => Verdict::Relay(ReplyKind::Unauthorised(head.status)),
        // The request did not arrive in time: not the client's mistake.
        408 => failed(Fault::Status(408)),
        400..500 => Verdict::Relay(ReplyKind::ClientError),
        529 => failed(Fault::Overloaded),
        _ if body.is_overload() => failed(Fault::Overloaded),
        status => failed(Fault::Status(status)),
    };
    with_times(verdict, head.headers, now_unix_s)
}

fn failed(fault: Fault) -> Verdict {
    Verdict::Failed { fault, retry_after: None }
}

/// Adds when the upstream wants to be asked again; a rate limit that lasts for hours becomes a quota by that.
fn with_times<H: Headers + ?Sized>(verdict: Verdict, headers: &H, now_unix_s: u64) -> Verdict {
    let Verdict::Failed { fault, .. } = verdict else { return verdict };
    let mut asked = retry_after(headers, now_unix_s);
    let fault = match asked {
        Some(after) if fault == Fault::RateLimited && (RATE_LIMIT_MAX..=QUOTA_MAX).contains(&after) => Fault::QuotaSpent,
        _ => fault,
    };
    if fault == Fault::QuotaSpent {
        asked = asked.max(quota_reset(headers, now_unix_s));
    }
    Verdict::Failed { fault, retry_after: asked.map(|after| after.min(RETRY_AFTER_MAX)) }
}

/// Milliseconds where they are told, else seconds or a date. What is malformed or negative was not said.
fn retry_after<H: Headers + ?Sized>(headers: &H, now_unix_s: u64) -> Option<Duration> {
    let milliseconds = headers.text("retry-after-ms").and_then(|text| seconds(text, 1e-3));
    milliseconds.or_else(|| {
        let text = headers.text("retry-after")?;
        let until = |unix_s: u64| Duration::from_secs(unix_s.saturating_sub(now_unix_s));
        seconds(text, 1.0).or_else(|| http_date::unix_seconds(text).map(until))
    })
}

/// When a quota is there again: seconds since 1970, or a timestamp.
fn quota_reset<H: Headers + ?Sized>(headers: &H, now_unix_s: u64) -> Option<Duration> {
    let text = headers.text("anthropic-ratelimit-unified-reset")?;
    let unix_s = text.parse().ok().or_else(|| http_date::unix_seconds_of_timestamp(text))?;
    Some(Duration::from_secs(unix_s.saturating_sub(now_unix_s)))
}

/// Of subscriptions: the hours or the week are used up, not the minute.
fn subscription_is_spent<H: Headers + ?Sized>(headers: &H) -> bool {
    headers.text("anthropic-ratelimit-unified-status") == Some("rejected")
}

fn seconds(text: &str, unit_s: f64) -> Option<Duration> {
    // `parse` would also take "inf" and "nan".
    let is_number = text.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    let number: f64 = text.parse().ok().filter(|_| is_number)?;
    // 10^18 s are enough for anybody, and fit.
    Some(Duration::from_secs_f64((number * unit_s).min(1e18)))
}

/// Written for people, whatever its status.
pub fn is_page<H: Headers + ?Sized>(head: &Head<'_, H>) -> bool {
    let kind = media_type(head.headers);
    matches!(kind.as_deref(), Some("text/html" | "application/xhtml+xml")) || without_blanks(head.body_start).starts_with(b"<")
}

/// In lower case, without its parameters.
fn media_type<H: Headers + ?Sized>(headers: &H) -> Option<String> {
    let text = headers.text("content-type")?;
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (!kind.is_empty()).then_some(kind)
}

fn without_blanks(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii_start()
}
