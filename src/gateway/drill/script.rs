//! An answer as bytes and pauses: what the socket's side only has to carry out. Pure.

use std::time::Duration;

use serde_json::Value;

use super::answer::{AfterStall, Answer, Ending, ErrorAnswer, ErrorKind, Misbehaviour, Pace, Point};
use super::frames::{Frame, Mark, Told, frames_before};
use super::http::Dialect;
use super::wire::{self, Gzip};
use super::{anthropic, openai_chat, openai_responses};

/// What the socket does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    /// These bytes again and again, until the client leaves.
    Repeat {
        bytes: Vec<u8>,
        every: Duration,
    },
    /// Nothing, until the client leaves.
    Silence,
    Reset,
    Close,
    /// The answer is over and the connection open for another request.
    Done,
    /// The same, and the connection is closed as the other request comes.
    CloseOnReuse,
}

/// What a request says about its answer.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub dialect: Dialect,
    pub stream: bool,
    pub model: &'a str,
    /// Distinguishes this reply's ids from all others'.
    pub id: u64,
    pub input_tokens: usize,
    pub include_usage: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub steps: Vec<Step>,
    /// The fault sits behind the end of the reply, and so nothing goes wrong.
    pub fault_missed: bool,
}

/// The script of this answer to this request, so long after the upstream's start.
pub fn script(answer: &Answer, request: &Request<'_>, elapsed: Duration) -> Script {
    let headers_wait = Step::Wait(Duration::from_millis(answer.pace.headers_ms));
    if let Some(steps) = without_reply(answer, request.dialect) {
        return Script { steps: [vec![headers_wait], steps].concat(), fault_missed: false };
    }
    let (body, fault_missed) = body(answer, request, elapsed);
    let (head, body) = encode(answer, request, body);
    let head = match answer.misbehaviour {
        Some(Misbehaviour::HeadersDribble { every_ms }) => {
            let every = Duration::from_millis(every_ms);
            head.iter().flat_map(|byte| [Step::Send(vec![*byte]), Step::Wait(every)]).collect()
        }
        _ => vec![Step::Send(head)],
    };
    Script { steps: [vec![headers_wait], head, body].concat(), fault_missed }
}

/// An answer in one piece, as the provider's other paths give it.
pub fn json_response(status: u16, headers: &[(&str, &str)], body: &Value) -> Vec<Step> {
    whole_response(status, "application/json", headers, body.to_string().as_bytes())
}

/// An error in the dialect's form.
pub fn error_response(dialect: Dialect, error: &ErrorAnswer, message: Option<&str>) -> Vec<Step> {
    let body = match dialect {
        Dialect::AnthropicMessages => anthropic::error(error.error, message),
        Dialect::OpenaiChat => openai_chat::error(error.error, message),
        Dialect::OpenaiResponses => openai_responses::error(error.error, message),
    };
    let retry_after: Vec<_> = error.retry_after.iter().map(|value| ("retry-after", value.as_str())).collect();
    json_response(error.status.unwrap_or_else(|| error.error.status()), &retry_after, &body)
}

/// Whether nothing of the reply is sent.
pub fn replaces_reply(answer: &Answer) -> bool {
    without_reply(answer, Dialect::OpenaiChat).is_some()
}

/// The misbehaviours that leave no reply to speak of.
fn without_reply(answer: &Answer, dialect: Dialect) -> Option<Vec<Step>> {
    let steps = match answer.misbehaviour.as_ref()? {
        // Who nevertheless came through has met a port that closes.
        Misbehaviour::Refuse | Misbehaviour::EndBeforeHeaders { how: Ending::Reset } => vec![Step::Reset],
        Misbehaviour::EndBeforeHeaders { how: Ending::Fin | Ending::Clean } => vec![Step::Close],
        Misbehaviour::NoHeaders => vec![Step::Silence],
        Misbehaviour::Error(error) | Misbehaviour::EarlyError(error) => error_response(dialect, error, None),
        Misbehaviour::Page { status } => whole_response(*status, "text/html; charset=utf-8", &[], PAGE.as_bytes()),
        Misbehaviour::Empty => whole_response(200, "text/event-stream", &[], b""),
        Misbehaviour::Redirect => whole_response(307, "text/html", &[("location", dialect.path())], b""),
        _ => return None,
    };
    Some(steps)
}

/// What people see when an edge has lost its origin.
const PAGE: &str = "<!DOCTYPE html><html><head><title>Error</title></head><body><h1>Something went wrong</h1>\
    <p>The web server reported an error. Please try again in a few minutes.</p></body></html>";

fn whole_response(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<Step> {
    let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {status} {}\r\ncontent-type: {content_type}\r\n{fields}", reason(status));
    let bytes = [format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat();
    vec![Step::Send(bytes), Step::Done]
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        307 => "Temporary Redirect",
        400..=499 => "Client Error",
        529 => "Overloaded",
        _ => "Server Error",
    }
}

/// A body before its framing.
#[derive(Debug, Clone, PartialEq)]
enum BodyStep {
    Bytes(Vec<u8>),
    Wait(Duration),
    Repeat {
        bytes: Vec<u8>,
        every: Duration,
    },
    Silence,
    /// `missing`: bytes that were promised and do not come.
    End {
        how: Ending,
        missing: usize,
    },
    Done,
}

/// The body with its fault, and whether the fault found its place.
fn body(answer: &Answer, request: &Request<'_>, elapsed: Duration) -> (Vec<BodyStep>, bool) {
    let mut healthy = if request.stream { streamed(answer, request, elapsed) } else { unstreamed(answer, request, elapsed) };
    let Some(misbehaviour) = &answer.misbehaviour else { return (healthy.steps_and_done(), false) };
    let point = match misbehaviour {
        Misbehaviour::Stall { at, .. }
        | Misbehaviour::Cut { at, .. }
        | Misbehaviour::ErrorEvent { at, .. }
        | Misbehaviour::MalformedEvents { at, .. }
        | Misbehaviour::HugeEvent { at, .. } => *at,
        Misbehaviour::ShortBody { missing_bytes } => {
            healthy.steps.push(BodyStep::End { how: Ending::Fin, missing: *missing_bytes });
            return (healthy.steps, false);
        }
        _ => return (healthy.steps_and_done(), false),
    };
    let Some((mut steps, rest)) = healthy.split(point) else { return (healthy.steps_and_done(), true) };
    let missing = rest.iter().map(|step| if let BodyStep::Bytes(bytes) = step { bytes.len() } else { 0 }).sum();
    let inserted = |frame: &Frame| BodyStep::Bytes(wire::frame_bytes(frame, &answer.wire, 1));
    match misbehaviour {
        Misbehaviour::Stall { pings_ms, for_ms, then, .. } => {
            let ping = wire::frame_bytes(&anthropic::ping(), &answer.wire, 1);
            steps.extend(stall(&ping, *pings_ms, *for_ms));
            match then {
                AfterStall::Fin => steps.push(BodyStep::End { how: Ending::Fin, missing }),
                AfterStall::GoOn => steps.extend(rest.into_iter().chain([BodyStep::Done])),
            }
        }
        Misbehaviour::Cut { how, .. } => steps.push(BodyStep::End { how: *how, missing }),
        Misbehaviour::ErrorEvent { error, .. } => {
            steps.push(inserted(&error_event(request.dialect, *error)));
            steps.push(BodyStep::Done);
        }
        Misbehaviour::MalformedEvents { count, .. } => {
            let torn = Frame { event: None, data: "{\"type\": \"content_block_delta\", \"index\": 0, \"del".to_owned(), mark: Mark::Frame };
            steps.extend(std::iter::repeat_n(inserted(&torn), *count));
            steps.extend(rest.into_iter().chain([BodyStep::Done]));
        }
        Misbehaviour::HugeEvent { bytes, .. } => {
            let data = format!("{{\"type\":\"ping\",\"padding\":\"{}\"}}", "x".repeat(*bytes));
            steps.push(inserted(&Frame { event: Some("ping"), data, mark: Mark::Frame }));
            steps.extend(rest.into_iter().chain([BodyStep::Done]));
        }
        _ => unreachable!("the others were answered above"),
    }
    (steps, false)
}

/// A healthy body, and where its frames are.
struct Healthy {
    steps: Vec<BodyStep>,
    frames: Vec<Frame>,
    /// Of each frame: its step.
    frame_steps: Vec<usize>,
}

impl Healthy {
    fn steps_and_done(mut self) -> Vec<BodyStep> {
        self.steps.push(BodyStep::Done);
        self.steps
    }

    /// What comes before the point, and what would have come after.
    fn split(&self, point: Point) -> Option<(Vec<BodyStep>, Vec<BodyStep>)> {
        match point {
            Point::Bytes(bytes) => self.split_bytes(bytes),
            Point::Headers => Some((Vec::new(), self.steps.clone())),
            // A reply in one piece has no events: half of it is the middle of anything.
            _ if self.frames.is_empty() => self.split_bytes(self.bytes() / 2),
            point => {
                let before = frames_before(&self.frames, point)?;
                let step = before.checked_sub(1).map_or(0, |last| self.frame_steps[last] + 1);
                Some((self.steps[..step].to_vec(), self.steps[step..].to_vec()))
            }
        }
    }

    fn split_bytes(&self, bytes: usize) -> Option<(Vec<BodyStep>, Vec<BodyStep>)> {
        let mut left = bytes;
        for (at, step) in self.steps.iter().enumerate() {
            let BodyStep::Bytes(piece) = step else { continue };
            if piece.len() >= left {
                let (mut before, mut after) = (self.steps[..at].to_vec(), vec![BodyStep::Bytes(piece[left..].to_vec())]);
                before.push(BodyStep::Bytes(piece[..left].to_vec()));
                after.extend_from_slice(&self.steps[at + 1..]);
                return Some((before, after));
            }
            left -= piece.len();
        }
        None
    }

    fn bytes(&self) -> usize {
        self.steps.iter().map(|step| if let BodyStep::Bytes(bytes) = step { bytes.len() } else { 0 }).sum()
    }
}

fn streamed(answer: &Answer, request: &Request<'_>, elapsed: Duration) -> Healthy {
    let told = told(answer, request);
    let frames = match request.dialect {
        Dialect::AnthropicMessages => anthropic::frames(&told),
        Dialect::OpenaiChat => openai_chat::frames(&told),
        Dialect::OpenaiResponses => openai_responses::frames(&told),
    };
    let interval = Duration::from_millis(answer.pace.token_interval_ms);
    let (mut steps, mut frame_steps, mut tokens, mut opened) = (Vec::new(), Vec::new(), 0, false);
    for (number, frame) in frames.iter().enumerate() {
        if frame.mark != Mark::Start && !std::mem::replace(&mut opened, true) {
            steps.push(BodyStep::Wait(first_token(&answer.pace, elapsed)));
        }
        if matches!(frame.mark, Mark::Text | Mark::Thinking | Mark::Arguments { .. }) {
            if tokens > 0 && !interval.is_zero() {
                steps.push(BodyStep::Wait(interval));
            }
            tokens += 1;
        }
        frame_steps.push(steps.len());
        steps.push(BodyStep::Bytes(wire::frame_bytes(frame, &answer.wire, number)));
    }
    Healthy { steps, frames, frame_steps }
}

fn unstreamed(answer: &Answer, request: &Request<'_>, elapsed: Duration) -> Healthy {
    let told = told(answer, request);
    let body = match request.dialect {
        Dialect::AnthropicMessages => anthropic::whole(&told),
        Dialect::OpenaiChat => openai_chat::whole(&told),
        Dialect::OpenaiResponses => openai_responses::whole(&told),
    };
    let decode = Duration::from_millis(answer.pace.token_interval_ms) * told.output_tokens() as u32;
    let steps = vec![BodyStep::Wait(first_token(&answer.pace, elapsed) + decode), BodyStep::Bytes(body.to_string().into_bytes())];
    Healthy { steps, frames: Vec::new(), frame_steps: Vec::new() }
}

/// Pieces of arguments as providers send them; a cut inside of arguments must find any byte.
const ARGUMENTS_PIECE_BYTES: usize = 7;

fn told<'a>(answer: &'a Answer, request: &Request<'a>) -> Told<'a> {
    let within_arguments = match &answer.misbehaviour {
        Some(Misbehaviour::Cut { at, .. } | Misbehaviour::Stall { at, .. } | Misbehaviour::ErrorEvent { at, .. }) => {
            matches!(at, Point::Arguments { .. })
        }
        _ => false,
    };
    Told {
        reply: &answer.reply,
        model: request.model,
        id: request.id,
        input_tokens: request.input_tokens,
        arguments_piece_bytes: if within_arguments { 1 } else { ARGUMENTS_PIECE_BYTES },
        include_usage: request.include_usage,
    }
}

/// How long the first content takes, so long after the start.
fn first_token(pace: &Pace, elapsed: Duration) -> Duration {
    let from = Duration::from_millis(pace.first_token_ms);
    let Some(ramp) = pace.ramp else { return from };
    let share = (elapsed.as_secs_f64() * 1000.0 / ramp.over_ms.max(1) as f64).min(1.0);
    let to = Duration::from_millis(ramp.to_ms);
    if to >= from { from + (to - from).mul_f64(share) } else { from - (from - to).mul_f64(share) }
}

fn stall(ping: &[u8], pings_ms: Option<u64>, for_ms: Option<u64>) -> Vec<BodyStep> {
    match (pings_ms, for_ms) {
        (None, None) => vec![BodyStep::Silence],
        (None, Some(for_ms)) => vec![BodyStep::Wait(Duration::from_millis(for_ms))],
        (Some(every_ms), None) => vec![BodyStep::Repeat { bytes: ping.to_vec(), every: Duration::from_millis(every_ms.max(1)) }],
        (Some(every_ms), Some(for_ms)) => {
            let every = Duration::from_millis(every_ms.max(1));
            let pings = (for_ms / every_ms.max(1)) as usize;
            std::iter::repeat_n([BodyStep::Wait(every), BodyStep::Bytes(ping.to_vec())], pings).flatten().collect()
        }
    }
}

fn error_event(dialect: Dialect, error: ErrorKind) -> Frame {
    match dialect {
        Dialect::AnthropicMessages => anthropic::error_event(error),
        Dialect::OpenaiChat => openai_chat::error_event(error),
        Dialect::OpenaiResponses => openai_responses::error_event(error),
    }
}

/// The head, and the body in chunks or with its length.
fn encode(answer: &Answer, request: &Request<'_>, body: Vec<BodyStep>) -> (Vec<u8>, Vec<Step>) {
    let short = matches!(answer.misbehaviour, Some(Misbehaviour::ShortBody { .. }));
    let chunked = request.stream && !short;
    let body = if answer.wire.gzip { gzipped(body) } else { body };
    let content_type = match &answer.misbehaviour {
        Some(Misbehaviour::ContentType { value }) => value,
        _ if request.stream => "text/event-stream; charset=utf-8",
        _ => "application/json",
    };
    let mut head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nrequest-id: req_drill_{:016x}\r\n", request.id);
    if let Some(Misbehaviour::HeaderBomb { bytes }) = answer.misbehaviour {
        head += &format!("x-drill-bomb: {}\r\n", "x".repeat(bytes));
    }
    if answer.wire.gzip {
        head += "content-encoding: gzip\r\n";
    }
    if answer.wire.close {
        head += "connection: close\r\n";
    }
    head += &if chunked { "transfer-encoding: chunked\r\n\r\n".to_owned() } else { format!("content-length: {}\r\n\r\n", promised(&body)) };
    let steps = body.into_iter().flat_map(|step| framed(step, answer, chunked)).collect();
    (head.into_bytes(), steps)
}

/// The length that the head tells of: what comes, and what was to come.
fn promised(body: &[BodyStep]) -> usize {
    let bytes = |step: &BodyStep| match step {
        BodyStep::Bytes(bytes) => bytes.len(),
        BodyStep::End { how: Ending::Reset | Ending::Fin, missing } => *missing,
        // Something must be awaited.
        BodyStep::Silence | BodyStep::Repeat { .. } => 1,
        _ => 0,
    };
    body.iter().map(bytes).sum()
}

fn gzipped(body: Vec<BodyStep>) -> Vec<BodyStep> {
    let mut gzip = Gzip::new();
    let mut out = Vec::new();
    for step in body {
        match step {
            BodyStep::Bytes(bytes) => out.push(BodyStep::Bytes(gzip.piece(&bytes))),
            BodyStep::Repeat { bytes, every } => out.push(BodyStep::Repeat { bytes: gzip.clone().piece(&bytes), every }),
            BodyStep::Done => out.extend([BodyStep::Bytes(gzip.end()), BodyStep::Done]),
            other => out.push(other),
        }
    }
    out
}

fn framed(step: BodyStep, answer: &Answer, chunked: bool) -> Vec<Step> {
    let frame = |bytes: &[u8]| if chunked { wire::chunk(bytes) } else { bytes.to_vec() };
    let last = if chunked { vec![Step::Send(wire::last_chunk(&answer.wire))] } else { Vec::new() };
    match step {
        // An empty chunk would be the last one.
        BodyStep::Bytes(bytes) => {
            let size = answer.wire.chunk_bytes.unwrap_or(bytes.len()).max(1);
            bytes.chunks(size).map(|piece| Step::Send(frame(piece))).collect()
        }
        BodyStep::Wait(duration) => vec![Step::Wait(duration)],
        BodyStep::Repeat { bytes, every } => vec![Step::Repeat { bytes: frame(&bytes), every }],
        BodyStep::Silence => vec![Step::Silence],
        BodyStep::End { how: Ending::Reset, .. } => vec![Step::Reset],
        BodyStep::End { how: Ending::Fin, .. } => vec![Step::Close],
        BodyStep::End { how: Ending::Clean, .. } => [last, vec![Step::Close]].concat(),
        BodyStep::Done => {
            let after = match (&answer.misbehaviour, answer.wire.close) {
                (Some(Misbehaviour::CloseOnReuse), _) => Step::CloseOnReuse,
                (_, true) => Step::Close,
                (_, false) => Step::Done,
            };
            [last, vec![after]].concat()
        }
    }
}
