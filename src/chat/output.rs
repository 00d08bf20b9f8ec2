//! Tokens become events: text through the incremental detokenizer, cut at stop strings, tool calls taken out. Runs on the request's
//! own task, one instance a choice.

use std::collections::VecDeque;
use std::sync::Arc;

use models::{Detokenizer, Tokenizer};

use super::stop_strings::{Scan, StopStrings};
use super::tool_parser::{Piece, ToolParser};
use super::{Event, FinishReason, ScoredToken, TextDelta, TokenText, Usage};
use crate::engine::{FinishReason as EngineFinish, GeneratedToken, TokenLogprobs, TokenUsage};

/// Names of tags that some vocabularies have as control tokens: they are markup of the reply, not silence.
const MARKUP: [&str; 4] = ["<tool_call>", "</tool_call>", "<think>", "</think>"];

/// How a reply is to be read.
#[derive(Debug)]
pub struct OutputOptions {
    pub stop: StopStrings,
    /// `Some`: tool calls are looked for.
    pub tools: Option<ToolOutput>,
    /// Shown before the model's own text (`echo`).
    pub echo: String,
    /// The reply goes on where the prompt's text ended, in the middle of a word perhaps; a chat's reply is a text of its own.
    pub continues_prompt: bool,
    pub prompt_tokens: usize,
    /// Ids of tool calls are derived from it.
    pub call_id_seed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutput {
    /// The reply ends with its first call.
    pub single_call: bool,
    /// The beginning of a call that the prompt already holds, after `<tool_call>`.
    pub begun: Option<String>,
}

/// The state of one choice.
#[derive(Debug)]
pub struct Output {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopStrings,
    tools: Option<ToolParser>,
    single_call: bool,
    call_id_seed: u64,
    calls: usize,
    echo: String,
    prompt_tokens: usize,
    completion_tokens: usize,
    /// Characters and bytes of the choice's text, and of the part that is past the stop strings.
    characters: usize,
    bytes: usize,
    certain_bytes: usize,
    /// Tokens whose text is not certain yet, with the byte it begins at.
    scored: VecDeque<(usize, ScoredToken)>,
    /// Tokens whose text is certain and waits for its event.
    released: Vec<ScoredToken>,
}

/// Whether the reply goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    More,
    /// `Finished` has been said; further tokens are not wanted.
    Done,
}

impl Output {
    pub fn new(tokenizer: Arc<Tokenizer>, options: OutputOptions) -> Self {
        let tools = options.tools.as_ref().map(|tools| match &tools.begun {
            Some(begun) => ToolParser::in_call(begun),
            None => ToolParser::new(),
        });
        Self {
            detokenizer: match options.continues_prompt {
                true => Detokenizer::continuing(tokenizer.clone()),
                false => Detokenizer::new(tokenizer.clone()),
            },
            tokenizer,
            stops: options.stop,
            tools,
            single_call: options.tools.is_some_and(|tools| tools.single_call),
            call_id_seed: options.call_id_seed,
            calls: 0,
            characters: options.echo.chars().count(),
            echo: options.echo,
            prompt_tokens: options.prompt_tokens,
            completion_tokens: 0,
            bytes: 0,
            certain_bytes: 0,
            scored: VecDeque::new(),
            released: Vec::new(),
        }
    }

    /// What stands before the model's first token.
    pub fn open(&mut self, events: &mut Vec<Event>) {
        if !self.echo.is_empty() {
            events.push(Event::Text(TextDelta { text: std::mem::take(&mut self.echo), tokens: Vec::new() }));
        }
    }

    /// Takes a token. `cached_tokens`: of the prompt, as far as the engine has said.
    pub fn push(&mut self, token: &GeneratedToken, cached_tokens: usize, events: &mut Vec<Event>) -> Flow {
        self.completion_tokens += 1;
        if let Some(logprobs) = &token.logprobs {
            let scored = self.scored_token(token.id, logprobs);
            self.scored.push_back((self.bytes, scored));
        }
        let text = match self.markup(token.id) {
            Some(tag) => self.detokenizer.finish() + tag,
            None => self.detokenizer.push(token.id),
        };
        let usage = TokenUsage { prompt_tokens: self.prompt_tokens, cached_tokens, completion_tokens: self.completion_tokens };
        self.text(&text, usage, events)
    }

    /// As far as it has come. `cached_tokens`: of the prompt, as far as the engine has said.
    pub fn usage_so_far(&self, cached_tokens: usize) -> Usage {
        let (prompt_tokens, completion_tokens) = (self.prompt_tokens, self.completion_tokens);
        Usage { prompt_tokens, cached_tokens, completion_tokens, thinking_tokens: 0 }
    }

    /// The engine has finished.
    pub fn finish(&mut self, reason: EngineFinish, usage: TokenUsage, events: &mut Vec<Event>) {
        let reason = match reason {
            EngineFinish::Failed(message) => return events.push(Event::Failed(message)),
            EngineFinish::Stop => FinishReason::EndOfTurn,
            EngineFinish::Length => FinishReason::Length,
        };
        let rest = self.detokenizer.finish();
        if self.text(&rest, usage, events) == Flow::Done {
            return;
        }
        let held = self.stops.finish();
        self.certain(&held, events);
        self.close(reason, usage, events);
    }

    /// Text from the detokenizer, through the stop strings.
    fn text(&mut self, text: &str, usage: TokenUsage, events: &mut Vec<Event>) -> Flow {
        self.bytes += text.len();
        self.characters += text.chars().count();
        match self.stops.push(text) {
            Scan::Text(text) => {
                self.certain(&text, events);
                if self.single_call && self.calls > 0 {
                    self.close(FinishReason::ToolCalls, usage, events);
                    return Flow::Done;
                }
                Flow::More
            }
            Scan::Stopped { text, stop } => {
                self.certain(&text, events);
                self.scored.clear();
                self.close(FinishReason::StopString(stop), usage, events);
                Flow::Done
            }
        }
    }

    /// Text that is part of the reply, through the tool parser.
    fn certain(&mut self, text: &str, events: &mut Vec<Event>) {
        self.certain_bytes += text.len();
        while let Some((start, _)) = self.scored.front() {
            if *start >= self.certain_bytes {
                break;
            }
            let released = self.scored.pop_front().map(|(_, token)| token);
            self.released.extend(released);
        }
        let mut pieces = Vec::new();
        match &mut self.tools {
            Some(parser) => parser.push(text, &mut pieces),
            None if text.is_empty() => {}
            None => pieces.push(Piece::Text(text.to_owned())),
        }
        self.pieces(pieces, events);
    }

    fn close(&mut self, reason: FinishReason, usage: TokenUsage, events: &mut Vec<Event>) {
        let mut pieces = Vec::new();
        if let Some(mut parser) = self.tools.take() {
            parser.finish(&mut pieces);
        }
        self.pieces(pieces, events);
        // Tokens without text of their own (a character cut off, a silent control token).
        self.released.extend(self.scored.drain(..).map(|(_, token)| token));
        if !self.released.is_empty() {
            events.push(Event::Text(TextDelta { text: String::new(), tokens: std::mem::take(&mut self.released) }));
        }
        let reason = if self.calls > 0 && reason != FinishReason::Length { FinishReason::ToolCalls } else { reason };
        let usage = Usage {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
            thinking_tokens: 0,
        };
        events.push(Event::Finished { reason, usage });
    }

    fn pieces(&mut self, pieces: Vec<Piece>, events: &mut Vec<Event>) {
        for piece in pieces {
            // What follows the one call that was wanted is not shown.
            if self.single_call && self.calls > 0 {
                return;
            }
            match piece {
                Piece::Text(text) => events.push(Event::Text(TextDelta { text, tokens: std::mem::take(&mut self.released) })),
                Piece::Call(call) => {
                    self.released.clear();
                    let index = self.calls;
                    self.calls += 1;
                    events.push(Event::ToolCallStarted { index, id: call_id(self.call_id_seed, index), name: call.name });
                    events.push(Event::ToolCallArguments { index, json: call.arguments });
                    events.push(Event::ToolCallEnded { index });
                }
            }
        }
    }

    fn scored_token(&self, id: u32, logprobs: &TokenLogprobs) -> ScoredToken {
        let token = |id: u32| TokenText { bytes: self.tokenizer.token_bytes(id, true).to_vec() };
        ScoredToken {
            token: token(id),
            logprob: logprobs.logprob,
            top: logprobs.top.iter().map(|&(id, logprob)| (token(id), logprob)).collect(),
            text_offset: self.characters,
        }
    }

    fn markup(&self, id: u32) -> Option<&'static str> {
        if self.tools.is_none() || !self.tokenizer.is_control(id) {
            return None;
        }
        let name = self.tokenizer.token_name(id)?;
        MARKUP.into_iter().find(|tag| *tag == name)
    }
}

/// `call_` and 24 letters and digits, the same for the same seed and index.
fn call_id(seed: u64, index: usize) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut state = seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut id = "call_".to_owned();
    for _ in 0..24 {
        state = split_mix(state);
        id.push(ALPHABET[(state % 62) as usize] as char);
    }
    id
}

/// SplitMix64 (Steele, Lea and Flood 2014): well-mixed numbers from a counter.
pub fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
