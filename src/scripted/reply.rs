//! One reply of the script as text and tokens, and which token follows what stands of it already.
//!
//! What stands may not be what the script wrote: a client may have begun the reply, a forced call may have been begun for the model, a
//! grammar may have wanted other keys or other spaces. Then the reply is taken up where it still fits, and what does not fit is closed.
//!
//! Pure.

use std::io::{self, Write};

use models::Tokenizer;
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Map, Value, json};

use super::history::Asked;
use super::json_cursor::{JsonCursor, Place};
use super::script::ScriptedReply;

const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";
const THOUGHT_END: &str = "</think>";
/// How a prompt says that no thinking is wanted.
const NO_THOUGHT: &str = "<think>\n\n</think>\n\n";
/// So much of what is to come is made tokens at a time: enough for the longest token.
const LOOK_AHEAD_BYTES: usize = 64;

/// A reply to one prompt.
#[derive(Debug)]
pub struct Reply {
    /// The whole, and what may be left of it: without thinking, calls alone.
    lines: Vec<Line>,
    /// `{"name": .., "arguments": ..}`
    calls: Vec<Value>,
    /// The text, where it is JSON.
    json: Option<Value>,
    /// Names of all tools that could be called.
    offered: Vec<String>,
    pub tokens_per_s: Option<f64>,
}

/// A text and its tokens.
#[derive(Debug)]
struct Line {
    text: String,
    tokens: Vec<u32>,
    /// Where each token ends, in bytes.
    ends: Vec<usize>,
}

/// What the model wants to say next.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// Best first; never the same twice.
    pub tokens: Vec<u32>,
    /// Where the text stands, for a grammar that allows none of them.
    pub place: Place,
}

/// What the form of what stands says about what follows.
enum Next {
    Text(String),
    /// Nothing is left to say, or nothing that fits.
    End,
    /// Nothing.
    Anything,
}

impl Next {
    fn of(text: Option<String>) -> Self {
        text.map_or(Self::End, Self::Text)
    }
}

impl Reply {
    pub fn new(scripted: &ScriptedReply, asked: &Asked, tokenizer: &Tokenizer) -> Self {
        let chosen: Vec<(&str, &Map<String, Value>)> = scripted.calls.iter().filter_map(|call| call.choose(&asked.offered)).collect();
        let calls: Vec<String> = chosen
            .iter()
            // As the template writes it: the name bare, the arguments as JSON.
            .map(|(name, arguments)| format!("{CALL}\n{{\"name\": {}, \"arguments\": {}}}\n{CALL_END}", json!(name), spaced(arguments)))
            .collect();
        let calls_text = calls.join("\n");
        let missing = scripted.calls.len() > chosen.len() && chosen.is_empty() && scripted.text.is_empty();
        let text = match missing {
            true => "The script wants to call a tool, and none that it knows is offered.",
            false => scripted.text.as_str(),
        };
        let spoken = [text, &calls_text].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
        let mut texts = match scripted.thinking.is_empty() {
            true => vec![spoken.clone()],
            false => vec![format!("<think>\n{}\n{THOUGHT_END}\n\n{spoken}", scripted.thinking), spoken.clone()],
        };
        texts.push([NO_THOUGHT, &spoken].concat());
        if !calls.is_empty() && !text.is_empty() {
            texts.push(calls_text);
        }
        Self {
            lines: texts.into_iter().map(|text| Line::new(text, tokenizer)).collect(),
            calls: chosen.iter().map(|(name, arguments)| json!({"name": name, "arguments": arguments})).collect(),
            json: serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array()),
            offered: asked.offered.clone(),
            tokens_per_s: scripted.tokens_per_s,
        }
    }

    /// The whole reply, thinking and calls included.
    pub fn text(&self) -> &str {
        &self.lines[0].text
    }

    /// What follows `said`; the end of the turn where nothing does.
    pub fn advise(&self, said: &[u8], tokenizer: &Tokenizer) -> Advice {
        let mut tokens: Vec<u32> = Vec::new();
        for line in &self.lines {
            if let Some(token) = line.after(said, tokenizer).filter(|token| !tokens.contains(token)) {
                tokens.push(token);
            }
        }
        let (said, half) = said.split_at(whole_characters(said));
        let said = String::from_utf8_lossy(said);
        let (next, place) = self.by_structure(&said);
        let next = match next {
            Next::Text(text) if !half.is_empty() => {
                text.as_bytes().strip_prefix(half).and_then(|rest| byte_token(*rest.first()?, tokenizer))
            }
            Next::Text(text) => first_token(&text, tokenizer),
            Next::End => tokenizer.eos(),
            Next::Anything if !tokens.is_empty() => None,
            Next::Anything => self.by_words(&said).map_or(tokenizer.eos(), |text| first_token(&text, tokenizer)),
        };
        if let Some(token) = next.filter(|token| !tokens.contains(token)) {
            tokens.push(token);
        }
        Advice { tokens, place }
    }

    /// In calls and in JSON, whatever way it went there.
    fn by_structure(&self, said: &str) -> (Next, Place) {
        if let Some((before, call)) = said.rsplit_once(CALL)
            && !call.contains(CALL_END)
        {
            let cursor = JsonCursor::read(call);
            if cursor.place == Place::End {
                return (Next::Text([line_break_after(&call[cursor.end..]), CALL_END].concat()), Place::Text);
            }
            let wanted = self.call_begun(before.matches(CALL_END).count(), call);
            return (Next::of(cursor.towards(Some(&wanted))), cursor.place);
        }
        if let Some((before, after)) = said.rsplit_once(CALL_END) {
            let next = self.calls.get(before.matches(CALL_END).count() + 1);
            return (Next::of(next.map(|call| format!("{}{CALL}\n{call}", line_break_after(after)))), Place::Text);
        }
        let spoken = said.rsplit_once(THOUGHT_END).map_or(said, |(_, spoken)| spoken).trim_start();
        if spoken.is_empty() {
            return (Next::Anything, Place::Value);
        }
        if !spoken.starts_with(['{', '[', '"']) {
            return (Next::Anything, Place::Text);
        }
        let cursor = JsonCursor::read(spoken);
        (Next::of(cursor.towards(self.json.as_ref())), cursor.place)
    }

    /// The call that is being written: the script's next one, or that of the name which was written for it. Of a tool that the script
    /// does not call here nothing is known but its name.
    fn call_begun(&self, index: usize, written: &str) -> Value {
        let (name, is_whole) = name_of(written);
        let fits = |call: &&Value| {
            let of_call = call["name"].as_str().unwrap_or_default();
            if is_whole { of_call == name } else { of_call.starts_with(name) }
        };
        let scripted = self.calls.get(index).filter(fits).or_else(|| self.calls.iter().find(fits));
        let offered = || self.offered.iter().find(|offered| offered.starts_with(name));
        scripted.cloned().unwrap_or_else(|| json!({"name": offered().map_or(name, String::as_str), "arguments": {}}))
    }

    /// After words that are not the script's: the script's from the beginning, or from where they were taken up.
    fn by_words(&self, said: &str) -> Option<String> {
        let text = self.text();
        let rest = &text[overlap(said, text)..];
        (!rest.is_empty()).then(|| rest.to_owned())
    }
}

impl Line {
    fn new(text: String, tokenizer: &Tokenizer) -> Self {
        // Only a file with too few byte tokens could fail, and the built-in one has them all.
        let tokens = tokenizer.encode(&text, false).unwrap_or_default();
        let ends = tokens.iter().scan(0, |end, &token| {
            *end += tokenizer.token_bytes(token, true).len();
            Some(*end)
        });
        Self { ends: ends.collect(), tokens, text }
    }

    /// The token after a beginning of this line; the end of the turn after all of it. `None`: `said` is another line.
    fn after(&self, said: &[u8], tokenizer: &Tokenizer) -> Option<u32> {
        let rest = self.text.as_bytes().strip_prefix(said)?;
        if rest.is_empty() {
            return tokenizer.eos();
        }
        let at_a_boundary = if said.is_empty() { Some(0) } else { self.ends.binary_search(&said.len()).ok().map(|index| index + 1) };
        match at_a_boundary {
            Some(index) => self.tokens.get(index).copied(),
            None => match self.text.get(said.len()..) {
                Some(rest) => first_token(rest, tokenizer),
                // In the middle of a character.
                None => byte_token(rest[0], tokenizer),
            },
        }
    }
}

/// How many bytes there are before a character that is not whole yet.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

/// One, where there is none yet.
fn line_break_after(text: &str) -> &'static str {
    if text.ends_with('\n') { "" } else { "\n" }
}

/// How much of `text`'s beginning `said` ends with.
pub fn overlap(said: &str, text: &str) -> usize {
    let longest = said.len().min(text.len());
    (0..=longest).rev().find(|&length| text.is_char_boundary(length) && said.ends_with(&text[..length])).unwrap_or(0)
}

/// The first token of a text.
fn first_token(text: &str, tokenizer: &Tokenizer) -> Option<u32> {
    let end = (0..=text.len().min(LOOK_AHEAD_BYTES)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    tokenizer.encode(&text[..end], false).ok()?.first().copied()
}

/// The token that is this byte alone.
pub fn byte_token(byte: u8, tokenizer: &Tokenizer) -> Option<u32> {
    (0..tokenizer.vocab_size() as u32).find(|&token| tokenizer.token_bytes(token, false) == [byte])
}

/// What stands of the name in a call that is not whole yet, and whether that is the whole name.
fn name_of(call: &str) -> (&str, bool) {
    let after_key = call.split_once("\"name\"").and_then(|(_, after)| after.trim_start().strip_prefix(':'));
    let name = after_key.and_then(|after| after.trim_start().strip_prefix('"'));
    name.map_or(("", false), |name| name.split_once('"').map_or((name, false), |(name, _)| (name, true)))
}

/// With a space after colons and commas, as templates print JSON: what comes back in the next prompt is the same tokens.
fn spaced(arguments: &Map<String, Value>) -> String {
    let mut out = Vec::new();
    let written = arguments.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced));
    written.expect("JSON values can be written to memory");
    String::from_utf8(out).expect("JSON is text")
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use models::Gguf;

    use super::super::script::Script;
    use super::*;
    use crate::hub::builtin;

    struct Scripted {
        tokenizer: Tokenizer,
        reply: Reply,
    }

    impl Scripted {
        fn new(script: &str, offered: &[&str]) -> Self {
            let gguf = Gguf::from_bytes(builtin::bytes(), "builtin").unwrap();
            let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
            let script = Script::parse("s.toml", &format!("[default]\n{script}")).unwrap();
            let asked = Asked { offered: offered.iter().map(|name| name.to_string()).collect(), ..Asked::default() };
            Self { reply: Reply::new(script.reply("", 0), &asked, &tokenizer), tokenizer }
        }

        /// What comes of `said` when nobody interferes.
        fn go_on(&self, said: &str) -> String {
            self.go_on_within(said, |_| true)
        }

        /// When only tokens may follow whose text leads to something that `allowed` allows.
        fn go_on_within(&self, said: &str, allowed: impl Fn(&str) -> bool) -> String {
            let mut bytes = said.as_bytes().to_vec();
            for _ in 0..500 {
                let advice = self.reply.advise(&bytes, &self.tokenizer);
                let fits = |token: &u32| {
                    let longer = [&bytes, self.tokenizer.token_bytes(*token, false)].concat();
                    Some(*token) == self.tokenizer.eos() || std::str::from_utf8(&longer).map_or(true, &allowed)
                };
                let token = advice.tokens.into_iter().find(fits).expect("the script knows what to say");
                if Some(token) == self.tokenizer.eos() {
                    return String::from_utf8(bytes[said.len()..].to_vec()).unwrap();
                }
                bytes.extend_from_slice(self.tokenizer.token_bytes(token, false));
            }
            panic!("it never ends: {}", String::from_utf8_lossy(&bytes));
        }
    }

    const CALLS: &str = "thinking = 'hm é'\ntext = 'I look.'\ncalls = [{ tool = 'B', arguments = { b = 'x', a = [1, 2] } }, { tool = 'none' }, { tool = 'C' }]";
    const WRITTEN: &str = "<tool_call>\n{\"name\": \"B\", \"arguments\": {\"b\": \"x\", \"a\": [1, 2]}}\n</tool_call>\n\
                           <tool_call>\n{\"name\": \"C\", \"arguments\": {}}\n</tool_call>";

    #[test]
    fn a_reply_is_said_from_wherever_it_stands() {
        let scripted = Scripted::new(CALLS, &["A", "B", "C"]);
        let whole = format!("<think>\nhm é\n</think>\n\nI look.\n{WRITTEN}");
        for at in (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            assert_eq!(scripted.go_on(&whole[..at]), whole[at..], "after {:?}", &whole[..at]);
        }
        // A prompt that wants no thinking; a reply whose call is begun for it.
        assert_eq!(scripted.go_on(NO_THOUGHT), format!("I look.\n{WRITTEN}"));
        assert_eq!(scripted.go_on("<tool_call>\n{\"name\": \""), WRITTEN[22..]);
    }

    #[test]
    fn half_a_character_is_made_whole() {
        let scripted = Scripted::new("text = 'aé𝄞'", &[]);
        let mut said = b"a\xc3".to_vec();
        for expected in "\u{e9}𝄞".as_bytes()[1..].iter() {
            let token = scripted.reply.advise(&said, &scripted.tokenizer).tokens[0];
            let bytes = scripted.tokenizer.token_bytes(token, false);
            assert_eq!(bytes[0], *expected);
            said.push(bytes[0]);
        }
    }

    #[test]
    fn half_a_character_is_made_whole_in_arguments_that_are_written_another_way() {
        let scripted = Scripted::new("calls = [{ tool = 'B', arguments = { a = 'né𝄞' } }]", &["B"]);
        let mut said = b"<tool_call>\n{ \"name\":\"B\", \"arguments\":{\"a\":\"n".to_vec();
        for expected in "é𝄞".bytes() {
            let token = scripted.reply.advise(&said, &scripted.tokenizer).tokens[0];
            assert_eq!(scripted.tokenizer.token_bytes(token, false)[0], expected);
            said.push(expected);
        }
    }

    #[test]
    fn a_call_that_is_not_the_scripts_is_closed() {
        let scripted = Scripted::new("text = 'pong'", &["get_weather"]);
        let closed = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>";
        for at in [22, 25, closed.find(", \"arg").unwrap(), closed.find("{}").unwrap(), closed.find("}}").unwrap()] {
            let rest: String = scripted.go_on(&closed[..at]).split_whitespace().collect();
            let expected: String = closed[at..].split_whitespace().collect();
            assert_eq!(rest, expected, "after {:?}", &closed[..at]);
        }
        assert_eq!(scripted.go_on(closed), "");
    }

    #[test]
    fn arguments_come_in_the_order_that_a_grammar_wants() {
        let scripted = Scripted::new(CALLS, &["A", "B", "C"]);
        let wanted = "<tool_call>{\"name\":\"B\",\"arguments\":{\"a\":[1,2],\"b\":\"x\"}}\n</tool_call>";
        let within = |text: &str| wanted.starts_with(text) || text.starts_with(wanted);
        // The grammar leaves one way at `{`; a sampler takes it, and the script goes on behind it.
        let begun = wanted.find("[1").unwrap();
        assert!(scripted.go_on_within(&wanted[..begun], within).starts_with("[1,2],\"b\":\"x\"}}"));
    }

    #[test]
    fn a_begun_reply_is_gone_on_with() {
        let scripted = Scripted::new("text = 'the answer is 4'", &[]);
        assert_eq!(scripted.go_on("I say: "), "the answer is 4");
        assert_eq!(scripted.go_on("I say: the ans"), "wer is 4");
        let json = Scripted::new("text = '{\"a\": 1, \"b\": [2]}'", &[]);
        assert_eq!(json.go_on("{ \"a\":1"), ",\"b\":[2]}");
    }

    #[test]
    fn calls_of_what_is_not_offered_are_left_out() {
        assert_eq!(Scripted::new(CALLS, &[]).go_on(NO_THOUGHT), "I look.");
        assert!(Scripted::new("calls = [{ tool = 'x' }]", &["y"]).go_on("").contains("none that it knows is offered"));
        assert_eq!(Scripted::new("", &[]).go_on(""), "");
    }
}
