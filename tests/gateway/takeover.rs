//! Streams cut anywhere: what the client has then, with what the decision adds, is a reply that its strict reader accepts.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use understudy::chat::begun::{BegunContent, BegunPiece};
use understudy::gateway::fault::Fault;
use understudy::gateway::hold::{Hold, HoldLimits};
use understudy::gateway::takeover::{Cut, Takeover, TakeoverConfig, aborts_are_retried, decide};
use understudy::gateway::tap::{Protocol, Tap, Told};

use super::replies::{Frame, Piece, go_on, pieces, stream, tell};
use crate::support::chat_stream::read_chat_stream;
use crate::support::http_client::{Head, Reply, Sse};
use crate::support::{messages_stream, response_stream};

const CUT: Cut = Cut { fault: Fault::Cut, is_committed: true, takeovers_so_far: 0, aborts_are_retried: false, prompt_tokens_estimate: 90 };

fn thinking(deltas: &[&str]) -> Piece {
    Piece::Thinking(deltas.iter().map(|delta| (*delta).to_owned()).collect())
}

fn text(deltas: &[&str]) -> Piece {
    Piece::Text(deltas.iter().map(|delta| (*delta).to_owned()).collect())
}

fn call(deltas: &[&str]) -> Piece {
    Piece::Call(deltas.iter().map(|delta| (*delta).to_owned()).collect())
}

/// A stream that broke.
struct Broken {
    tap: Tap,
    /// What the client has.
    has: Vec<String>,
    is_committed: bool,
}

fn broken(protocol: Protocol, frames: &[Frame]) -> Broken {
    let (mut tap, mut hold) = (Tap::new(protocol), Hold::new(HoldLimits::default()));
    let mut has = Vec::new();
    for frame in frames {
        let told = tell(&mut tap, [frame.raw.as_str()])[0];
        let out = hold.push(Bytes::from(frame.raw.clone()), &told).unwrap_or_default();
        has.extend(out.iter().map(text_of));
    }
    let is_committed = hold.is_committed();
    if !is_committed {
        has = hold.commit().iter().map(text_of).collect();
    }
    Broken { tap, has, is_committed }
}

/// Cut behind the frame that `is_last` names.
#[track_caller]
fn broken_behind(protocol: Protocol, pieces: &[Piece], is_last: impl Fn(&Frame) -> bool) -> Broken {
    let frames = stream(protocol, pieces);
    let at = frames.iter().position(is_last).expect("there is such a frame");
    broken(protocol, &frames[..=at])
}

fn adds(text: &str) -> impl Fn(&Frame) -> bool {
    move |frame| frame.adds.as_ref().is_some_and(|(_, added)| added == text)
}

fn says(text: &str) -> impl Fn(&Frame) -> bool {
    move |frame| frame.raw.contains(text)
}

fn text_of(frame: &Bytes) -> String {
    String::from_utf8(frame.to_vec()).expect("frames are text")
}

impl Broken {
    fn decide(&self, cut: Cut) -> Takeover {
        decide(self.tap.seen(), &Cut { is_committed: self.is_committed, ..cut }, &TakeoverConfig::default())
    }

    /// The client gets these too.
    fn give(&mut self, frames: &[Bytes]) {
        let frames: Vec<String> = frames.iter().map(text_of).collect();
        for told in tell(&mut self.tap, frames.iter().map(String::as_str)) {
            assert!(!matches!(told, Told::Malformed), "frames of ours are JSON");
        }
        self.has.extend(frames);
    }

    /// The local model goes on with text, to the end.
    fn go_on(&mut self, more: &str) {
        let frames = go_on(self.tap.seen(), more);
        tell(&mut self.tap, frames.iter().map(String::as_str));
        self.has.extend(frames);
        assert!(self.tap.seen().is_terminal);
    }

    /// The strict reader's judgement: panics, or says whether the reply ended in an error.
    fn ends_in_error(&self) -> bool {
        let reply = reply(&self.has.concat());
        match self.tap.seen().protocol {
            Protocol::AnthropicMessages => messages_stream::read_messages_stream(&reply).error.is_some(),
            Protocol::OpenAiResponses => {
                let folded = response_stream::read_response_stream(&reply);
                folded.response["status"] == "failed"
            }
            Protocol::OpenAiChat | Protocol::OpenAiCompletions => {
                let last = reply.events().pop();
                let is_error = matches!(&last, Some(Sse::Data(data)) if data.starts_with("{\"error\""));
                assert_eq!(self.has.concat().contains("[DONE]"), !is_error, "an error is not followed by the mark of success");
                if !is_error && self.tap.seen().protocol == Protocol::OpenAiChat {
                    read_chat_stream(&reply, 1);
                }
                is_error
            }
        }
    }
}

fn reply(body: &str) -> Reply {
    let headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")];
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Reply { head: Head { status: 200, headers }, body: body.as_bytes().to_vec() }
}

/// What the client has of each piece, by what the frames added.
fn expected(pieces: &[Piece], frames: &[Frame]) -> Vec<String> {
    let mut texts = vec![String::new(); pieces.len()];
    for (index, added) in frames.iter().filter_map(|frame| frame.adds.as_ref()) {
        texts[*index].push_str(added);
    }
    texts
}

fn content_of(piece: &BegunPiece) -> &str {
    match &piece.content {
        BegunContent::Text(text) | BegunContent::Thinking(text) => text,
        BegunContent::ToolCall { arguments, .. } => arguments,
        BegunContent::Other => "",
    }
}

fn is_json_object(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
}

/// Whatever is decided of a stream that is cut behind `at` frames must hold.
fn check_cut(protocol: Protocol, pieces: &[Piece], at: usize, aborts_are_retried: bool) {
    let frames = stream(protocol, pieces);
    let mut broken = broken(protocol, &frames[..at]);
    let has: Vec<String> = broken.tap.seen().reply.pieces.iter().map(|piece| content_of(piece).to_owned()).collect();
    let texts = expected(pieces, &frames[..at]);
    for index in 0..has.len().max(texts.len()) {
        let (has, text) = (has.get(index), texts.get(index));
        assert_eq!(has.map_or("", String::as_str), text.map_or("", String::as_str), "what the client has, to the byte");
    }
    let open_text = has.last().cloned().unwrap_or_default();
    let last = pieces.get(has.len().wrapping_sub(1));
    match broken.decide(Cut { aborts_are_retried, ..CUT }) {
        Takeover::PlainSwitch => assert!(!broken.is_committed && texts.concat().is_empty(), "nothing was shown"),
        Takeover::Finish(added) => {
            broken.give(&added);
            assert!(!broken.ends_in_error());
            let seen = broken.tap.seen();
            assert!(seen.is_terminal, "it is told to its end");
            for (piece, had) in seen.reply.pieces.iter().zip(&has) {
                assert_eq!(content_of(piece), had, "nothing was added to what was shown");
                let is_call = matches!(piece.content, BegunContent::ToolCall { .. });
                assert!(!is_call || is_json_object(content_of(piece)), "a call that is ended can be read: {piece:?}");
            }
            let was_at_its_end = at + 3 > frames.len();
            assert!(was_at_its_end || has.len() < pieces.len() || matches!(last, Some(Piece::Call(_))) || pieces.iter().any(is_call));
        }
        Takeover::ContinueText { first } => {
            assert!(matches!(last, Some(Piece::Text(_)) | None), "{last:?}");
            broken.give(&first);
            let is_open = broken.tap.seen().reply.pieces.last().is_some_and(|piece| piece.open);
            // Our strict reader of messages wants no two texts one after the other.
            if protocol != Protocol::AnthropicMessages || is_open {
                broken.go_on("more");
                assert!(!broken.ends_in_error());
                let begun = broken.tap.seen().reply.pieces.iter().rev().map(content_of).find(|text| text.ends_with("more"));
                assert!(begun.is_some_and(|text| !is_open || text == format!("{open_text}more")), "{begun:?}");
            }
        }
        Takeover::ContinueToolCall { index } => {
            assert_eq!(index + 1, has.len());
            assert!(matches!(last, Some(Piece::Call(_))));
            let piece = &broken.tap.seen().reply.pieces[index];
            assert!(piece.open && !is_json_object(content_of(piece)));
            assert!(last.is_some_and(|whole| whole.text().starts_with(content_of(piece))));
        }
        Takeover::FreshText { first } => {
            assert!(matches!(last, Some(Piece::Thinking(_))));
            broken.give(&first);
            assert!(protocol == Protocol::OpenAiChat || broken.tap.seen().reply.pieces.iter().all(|piece| !piece.open));
            broken.go_on("fresh");
            assert!(!broken.ends_in_error());
        }
        Takeover::Abort => {
            assert!(aborts_are_retried && matches!(last, Some(Piece::Thinking(_))) && has.len() == 1);
        }
        Takeover::InBandError(_) => panic!("each of these can be gone on with: {pieces:?} behind {at}"),
    }
    // Whoever may not go on says so.
    if let Takeover::InBandError(added) = broken.decide(Cut { takeovers_so_far: 1, ..CUT }) {
        let mut failed = self::broken(protocol, &frames[..at]);
        failed.give(&added);
        assert!(failed.ends_in_error());
    }
}

fn is_call(piece: &Piece) -> bool {
    matches!(piece, Piece::Call(_))
}

const PROTOCOLS: [Protocol; 4] =
    [Protocol::AnthropicMessages, Protocol::OpenAiChat, Protocol::OpenAiCompletions, Protocol::OpenAiResponses];

fn cut_stream() -> impl Strategy<Value = (Protocol, Vec<Piece>, prop::sample::Index, bool)> {
    prop::sample::select(PROTOCOLS.to_vec())
        .prop_flat_map(|protocol| (Just(protocol), pieces(protocol), any::<prop::sample::Index>(), any::<bool>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn a_stream_cut_anywhere_ends_as_a_reply_or_in_an_error((protocol, pieces, at, aborts) in cut_stream()) {
        let frames = stream(protocol, &pieces).len();
        check_cut(protocol, &pieces, at.index(frames + 1), aborts);
    }
}

#[test]
fn text_goes_on_in_the_same_block() {
    for protocol in [Protocol::AnthropicMessages, Protocol::OpenAiResponses, Protocol::OpenAiChat] {
        let mut broken = broken_behind(protocol, &[text(&["one ", "two ", "three"])], adds("two "));
        assert_eq!(broken.decide(CUT), Takeover::ContinueText { first: Vec::new() }, "{protocol:?}");
        broken.go_on("four");
        assert!(!broken.ends_in_error());
        assert_eq!(content_of(&broken.tap.seen().reply.pieces[0]), "one two four");
        assert_eq!(broken.tap.seen().reply.pieces.len(), 1);
    }
}

#[test]
fn a_message_without_its_part_gets_one_before_text_goes_on() {
    let answered = [thinking(&["hm"]), text(&["one"])];
    let frames = stream(Protocol::OpenAiResponses, &answered);
    let at = frames.iter().position(says("response.content_part.added")).expect("a part");
    let mut broken = broken(Protocol::OpenAiResponses, &frames[..at]);
    let Takeover::ContinueText { first } = broken.decide(CUT) else { panic!("an open message is text") };
    assert_eq!(first, [frames[at].raw.as_bytes()], "as the upstream would have written it");
    broken.give(&first);
    broken.go_on("more");
    assert!(!broken.ends_in_error());
}

#[test]
fn a_call_goes_on_where_its_arguments_broke_off() {
    let asked = [text(&["let me look"]), call(&["{\"path\":\"a", "\\u12", "34\"}"])];
    for protocol in [Protocol::AnthropicMessages, Protocol::OpenAiResponses, Protocol::OpenAiChat] {
        for broken_off in ["{\"path\":\"a", "\\u12"] {
            let broken = broken_behind(protocol, &asked, adds(broken_off));
            assert_eq!(broken.decide(CUT), Takeover::ContinueToolCall { index: 1 }, "{protocol:?}");
            assert!(content_of(&broken.tap.seen().reply.pieces[1]).ends_with(broken_off));
        }
    }
    // Begun, and nothing in it: neither is it whole.
    let broken = broken_behind(Protocol::AnthropicMessages, &asked, says("tool_use"));
    assert_eq!(broken.decide(CUT), Takeover::ContinueToolCall { index: 1 });
}

#[test]
fn between_finished_calls_the_reply_just_ends() {
    let asked = [call(&["{\"a\":", "1}"]), call(&["{\"b\":", "2}"])];
    let ends = [
        (Protocol::AnthropicMessages, "\"stop_reason\":\"tool_use\""),
        (Protocol::OpenAiResponses, "response.completed"),
        (Protocol::OpenAiChat, "\"finish_reason\":\"tool_calls\""),
    ];
    for (protocol, end) in ends {
        let mut broken = broken_behind(protocol, &asked, adds("1}"));
        let Takeover::Finish(added) = broken.decide(CUT) else { panic!("{protocol:?}: the call is whole") };
        broken.give(&added);
        assert!(!broken.ends_in_error());
        assert!(broken.has.concat().contains(end), "{protocol:?}");
        assert_eq!(broken.tap.seen().reply.pieces.len(), 1, "the second call had not begun");
        // It needs no model: also after a takeover.
        assert!(matches!(broken.decide(Cut { takeovers_so_far: 1, ..CUT }), Takeover::Finish(_)));
    }
}

#[test]
fn what_is_missing_after_the_reason_is_all_that_is_added() {
    let frames = stream(Protocol::AnthropicMessages, &[text(&["all of it"])]);
    let last = frames.len() - 1;
    let anthropic = broken(Protocol::AnthropicMessages, &frames[..last]);
    let stop = Bytes::from(frames[last].raw.clone());
    assert_eq!(anthropic.decide(CUT), Takeover::Finish(vec![stop]));
    let frames = stream(Protocol::OpenAiChat, &[text(&["all of it"])]);
    let chat = broken(Protocol::OpenAiChat, &frames[..frames.len() - 1]);
    assert_eq!(chat.decide(CUT), Takeover::Finish(vec!["data: [DONE]\n\n".into()]));
    let whole = broken(Protocol::OpenAiChat, &frames);
    assert_eq!(whole.decide(CUT), Takeover::Finish(Vec::new()), "nothing is missing");
}

#[test]
fn usage_that_was_asked_for_is_told_at_the_end() {
    let told = |frames: &[&str]| {
        let mut tap = Tap::new(Protocol::OpenAiChat);
        tell(&mut tap, frames.iter().copied());
        match decide(tap.seen(), &CUT, &TakeoverConfig::default()) {
            Takeover::Finish(frames) => frames.iter().map(text_of).collect::<String>(),
            other => panic!("{other:?}"),
        }
    };
    let head = "data: {\"id\":\"chatcmpl-1\",\"created\":7,\"model\":\"gpt\"";
    let word = format!("{head},\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"twelve bytes\"}}}}],\"usage\":null}}\n\n");
    let stop = format!("{head},\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}],\"usage\":null}}\n\n");
    let usage = format!("{head},\"choices\":[],\"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":3}}}}\n\n");
    let added = told(&[&word, &stop]);
    assert!(added.contains("\"prompt_tokens\":90,\"completion_tokens\":3,\"total_tokens\":93"), "{added}");
    assert_eq!(told(&[&word, &stop, &usage]), "data: [DONE]\n\n");
    assert_eq!(told(&[&word.replace(",\"usage\":null", ""), &stop.replace(",\"usage\":null", "")]), "data: [DONE]\n\n");
}

#[test]
fn nobody_goes_on_in_anothers_thoughts() {
    let thought = [thinking(&["hm", "so"]), text(&["well"])];
    for protocol in [Protocol::AnthropicMessages, Protocol::OpenAiResponses] {
        let mut inside = broken_behind(protocol, &thought, adds("hm"));
        assert_eq!(inside.decide(Cut { aborts_are_retried: true, ..CUT }), Takeover::Abort);
        let Takeover::FreshText { first } = inside.decide(CUT) else { panic!("{protocol:?}: its thoughts are closed") };
        inside.give(&first);
        assert!(!inside.tap.seen().reply.pieces[0].open);
        inside.go_on("fresh");
        assert!(!inside.ends_in_error());
    }
    let closed = broken_behind(Protocol::AnthropicMessages, &thought, says("content_block_stop"));
    let fresh = Takeover::FreshText { first: Vec::new() };
    assert_eq!(closed.decide(Cut { aborts_are_retried: true, ..CUT }), fresh, "a whole thought is something to go on from");
}

#[test]
fn an_unsigned_thought_is_signed_as_ours() {
    let broken = broken_behind(Protocol::AnthropicMessages, &[thinking(&["hm", "so"])], adds("hm"));
    let Takeover::FreshText { first } = broken.decide(CUT) else { panic!("its thoughts are closed") };
    assert!(text_of(&first[0]).contains("\"signature\":\"understudy-"), "{first:?}");
    let signed = broken_behind(Protocol::AnthropicMessages, &[thinking(&["hm"])], says("signature_delta"));
    let Takeover::FreshText { first } = signed.decide(CUT) else { panic!("its thoughts are closed") };
    assert_eq!(first, ["event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"]);
}

#[test]
fn a_client_that_was_shown_something_does_not_ask_again() {
    let shown = [text(&["first"]), thinking(&["hm"])];
    let broken = broken_behind(Protocol::AnthropicMessages, &shown, adds("hm"));
    assert!(matches!(broken.decide(Cut { aborts_are_retried: true, ..CUT }), Takeover::FreshText { .. }));
    let called = [call(&["{}"]), thinking(&["hm"])];
    let mut broken = broken_behind(Protocol::AnthropicMessages, &called, adds("hm"));
    let Takeover::Finish(added) = broken.decide(Cut { aborts_are_retried: true, ..CUT }) else { panic!("the call is an answer") };
    broken.give(&added);
    assert!(!broken.ends_in_error());
}

#[test]
fn before_the_commit_another_answers_as_if_it_were_the_first() {
    for protocol in PROTOCOLS {
        let broken = broken(protocol, &stream(protocol, &[text(&["one"])])[..1]);
        if protocol != Protocol::OpenAiCompletions {
            assert_eq!(broken.decide(CUT), Takeover::PlainSwitch, "{protocol:?}");
        }
        // Given out because it became too much to hold: then it is a reply with nothing in it yet.
        let forced = decide(broken.tap.seen(), &CUT, &TakeoverConfig::default());
        assert!(matches!(forced, Takeover::ContinueText { .. }), "{protocol:?} {forced:?}");
    }
}

#[test]
fn a_reply_is_taken_over_once_and_only_where_that_is_allowed() {
    let said = [text(&["one", "two"])];
    let asked = [call(&["{\"a\":", "1}"])];
    for protocol in [Protocol::AnthropicMessages, Protocol::OpenAiResponses, Protocol::OpenAiChat] {
        let in_text = broken_behind(protocol, &said, adds("one"));
        let in_call = broken_behind(protocol, &asked, adds("{\"a\":"));
        for mut broken in [in_text, in_call] {
            let off = TakeoverConfig { text: false, tool_calls: false };
            assert!(matches!(decide(broken.tap.seen(), &CUT, &off), Takeover::InBandError(_)), "{protocol:?}");
            let Takeover::InBandError(added) = broken.decide(Cut { takeovers_so_far: 1, ..CUT }) else { panic!("once is enough") };
            broken.give(&added);
            assert!(broken.ends_in_error());
        }
    }
}

/// The events of a stream of Anthropic's up to a cut, and what is decided.
#[track_caller]
fn decided(protocol: Protocol, events: &[&str]) -> Takeover {
    let frames: Vec<String> = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let mut tap = Tap::new(protocol);
    tell(&mut tap, frames.iter().map(String::as_str));
    decide(tap.seen(), &CUT, &TakeoverConfig::default())
}

#[test]
fn what_cannot_be_gone_on_with_ends_in_an_error() {
    let start = r#"{"type":"message_start","message":{"id":"msg_1","model":"claude"}}"#;
    let server_tool =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"srv","name":"web_search"}}"#;
    let stray = r#"{"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"x"}}"#;
    for cannot in [server_tool, stray] {
        assert!(matches!(decided(Protocol::AnthropicMessages, &[start, cannot]), Takeover::InBandError(_)), "{cannot}");
    }
    let word = r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
    let second_choice = r#"{"choices":[{"index":1,"delta":{"content":"y"}}]}"#;
    let refusal = r#"{"choices":[{"index":0,"delta":{"refusal":"I will not"}}]}"#;
    let legacy = r#"{"choices":[{"index":0,"delta":{"function_call":{"name":"f","arguments":"{"}}}]}"#;
    for cannot in [second_choice, refusal, legacy] {
        assert!(matches!(decided(Protocol::OpenAiChat, &[word, cannot]), Takeover::InBandError(_)), "{cannot}");
    }
    // Arguments of two calls by turns.
    let part = |index: usize, more: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":{index},"id":"c{index}","function":{{"name":"f","arguments":"{more}"}}}}]}}}}]}}"#
        )
    };
    let by_turns = [part(0, "{"), part(1, "{"), part(0, "}")];
    let by_turns: Vec<&str> = by_turns.iter().map(String::as_str).collect();
    assert!(matches!(decided(Protocol::OpenAiChat, &by_turns), Takeover::InBandError(_)));
    // A call before the last one that is not whole would be executed.
    assert!(matches!(decided(Protocol::OpenAiChat, &by_turns[..2]), Takeover::InBandError(_)));
    // In chats nothing says whether a call without arguments was to have none.
    let silent = part(0, "");
    assert_eq!(decided(Protocol::OpenAiChat, &[&silent]), Takeover::ContinueToolCall { index: 0 });
    assert!(matches!(decided(Protocol::OpenAiChat, &[&silent, &part(1, "{}")]), Takeover::InBandError(_)));
    assert_eq!(decided(Protocol::OpenAiChat, &[&part(0, "7")]), Takeover::ContinueToolCall { index: 0 }, "JSON, and no object");
    let created = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","model":"gpt","output":[]}}"#;
    let added = r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"ctc_1","type":"custom_tool_call","call_id":"call_1","name":"patch","input":""}}"#;
    assert!(matches!(decided(Protocol::OpenAiResponses, &[created, added]), Takeover::InBandError(_)));
    assert!(matches!(decided(Protocol::OpenAiResponses, &[added]), Takeover::InBandError(_)), "no response to speak of");
}

#[test]
fn a_refusal_that_is_whole_is_not_asked_of_another() {
    let start = r#"{"type":"message_start","message":{"id":"msg_1","model":"claude"}}"#;
    let refused = r#"{"type":"message_delta","delta":{"stop_reason":"refusal"},"usage":{"output_tokens":0}}"#;
    let mut tap = Tap::new(Protocol::AnthropicMessages);
    tell(&mut tap, [format!("data: {start}\n\n").as_str(), format!("data: {refused}\n\n").as_str()]);
    let uncommitted = Cut { is_committed: false, ..CUT };
    assert!(matches!(decide(tap.seen(), &uncommitted, &TakeoverConfig::default()), Takeover::Finish(_)));
    assert!(tap.seen().is_refusal);
}

#[test]
fn claude_code_is_known_by_its_user_agent() {
    assert!(aborts_are_retried("claude-cli/2.1.197 (external, cli)"));
    for other in ["", "Anthropic/Python 0.80", "my claude-cli/1", "codex_cli_rs/0.169"] {
        assert!(!aborts_are_retried(other), "{other}");
    }
}
