//! Tokens become events: text through the incremental detokenizer, thoughts and tool calls taken out, the rest cut at stop strings (which
//! are about the answer: they act neither in thoughts nor in calls). Runs on the request's own task, one instance a choice.

use std::collections::VecDeque;
use std::sync::Arc;

use models::{Detokenizer, Tokenizer};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::reasoning_parser::{ReasoningFormat, ReasoningParser, ReasoningStart, Section};
use super::scored_prompt::scored_prompt;
use super::stop_strings::{Scan, StopStrings};
use super::tool_formats::ToolFormat;
use super::tool_formats::call_reader::{CallReader, Piece};
use super::{Event, FinishReason, ScoredToken, TextDelta, TokenText, ToolDefinition, Usage, schema_check};
use crate::engine::{FinishReason as EngineFinish, GeneratedToken, TokenLogprobs, TokenUsage};

/// How a reply is to be read.
#[derive(Debug)]
pub struct OutputOptions {
    pub stop: StopStrings,
    /// `Some`: thoughts are looked for.
    pub reasoning: Option<(ReasoningFormat, ReasoningStart)>,
    /// `Some`: tool calls are looked for.
    pub tools: Option<ToolOutput>,
    /// Shown before the model's own text (`echo`).
    pub echo: String,
    /// The prompt, if its tokens are shown with their log-probabilities; else empty.
    pub scored_prompt: Vec<u32>,
    /// The reply goes on where the prompt's text ended, in the middle of a word perhaps; a chat's reply is a text of its own.
    pub continues_prompt: bool,
    /// `Some`: the client has the beginning of the reply, which somebody else wrote.
    pub goes_on: Option<GoesOn>,
    pub prompt_tokens: usize,
    /// Ids of tool calls are derived from it.
    pub call_id_seed: u64,
}

#[derive(Debug, Clone)]
pub struct ToolOutput {
    pub format: &'static dyn ToolFormat,
    pub tools: Arc<[ToolDefinition]>,
    /// The reply ends with its first call.
    pub single_call: bool,
    /// The beginning of a call that the prompt already holds.
    pub begun: String,
}

/// How a reply goes on that somebody else has begun.
#[derive(Debug, Clone, Default)]
pub struct GoesOn {
    /// The model's first words, which the client has: see [`super::token_healing`].
    pub known: String,
    /// Tokens of the prompt that were taken back for them.
    pub known_tokens: usize,
    /// Calls that were begun, the open one included.
    pub calls: usize,
    /// What of the reply stands already.
    pub usage: Usage,
    /// `Some`: the model goes on within the arguments of the last call, as JSON, and ends with them.
    pub arguments: Option<OpenArguments>,
}

#[derive(Debug, Clone)]
pub struct OpenArguments {
    pub tool: String,
    pub so_far: String,
    /// `Some`: no grammar made sure that the whole fulfils this schema.
    pub to_fulfil: Option<Value>,
}

/// The state of one choice.
#[derive(Debug)]
pub struct Output {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    reasoning: Option<ReasoningParser>,
    tools: Option<CallReader>,
    goes_on: Option<GoesOn>,
    /// What a call that the prompt begins has told already.
    begun: Vec<Piece>,
    /// Names of control tokens that are markup of the reply, not silence.
    markers: Vec<&'static str>,
    stops: StopStrings,
    single_call: bool,
    call_id_seed: u64,
    calls: usize,
    echo: String,
    /// Until its scores are there.
    scored_prompt: Vec<u32>,
    prompt_tokens: usize,
    completion_tokens: usize,
    /// Of these, tokens that said only what the client had.
    known_tokens: usize,
    thinking_tokens: usize,
    /// Characters and bytes of the choice's text, markup included; and, in bytes, the call that the prompt begins.
    characters: usize,
    bytes: usize,
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
        let mut markers = Vec::new();
        markers.extend(options.reasoning.iter().flat_map(|(format, _)| format.markers()));
        markers.extend(options.tools.iter().flat_map(|tools| tools.format.markers()));
        let single_call = options.tools.as_ref().is_some_and(|tools| tools.single_call);
        let mut begun = Vec::new();
        let begun_bytes = options.tools.as_ref().map_or(0, |tools| tools.begun.len());
        let tools = options.tools.map(|tools| {
            let mut reader = CallReader::new(tools.format, tools.tools);
            if options.continues_prompt && options.goes_on.is_some() {
                reader = reader.after_words();
            }
            reader.push(&tools.begun, &mut begun);
            reader
        });
        Self {
            detokenizer: match options.continues_prompt {
                true => Detokenizer::continuing(tokenizer.clone()),
                false => Detokenizer::new(tokenizer.clone()),
            },
            tokenizer,
            reasoning: options.reasoning.map(|(format, start)| ReasoningParser::new(format, start)),
            tools,
            begun,
            markers,
            stops: options.stop,
            single_call,
            call_id_seed: options.call_id_seed,
            calls: options.goes_on.as_ref().map_or(0, |goes_on| goes_on.calls),
            goes_on: options.goes_on,
            characters: options.echo.chars().count(),
            echo: options.echo,
            scored_prompt: options.scored_prompt,
            prompt_tokens: options.prompt_tokens,
            completion_tokens: 0,
            known_tokens: 0,
            thinking_tokens: 0,
            bytes: begun_bytes,
            scored: VecDeque::new(),
            released: Vec::new(),
        }
    }

    /// What stands before the model's first token.
    pub fn open(&mut self, events: &mut Vec<Event>) {
        if !self.echo.is_empty() && !self.awaits_scores() {
            events.push(Event::Text(TextDelta { text: std::mem::take(&mut self.echo), tokens: Vec::new() }));
        }
        let begun = std::mem::take(&mut self.begun);
        let usage = TokenUsage { prompt_tokens: self.prompt_tokens, ..TokenUsage::default() };
        self.pieces(begun, usage, events);
    }

    /// The prompt is to be shown with scores that only the engine knows.
    pub fn awaits_scores(&self) -> bool {
        !self.scored_prompt.is_empty()
    }

    /// Shows the prompt that was to be. `scores`: of its second token, its third, and so on.
    pub fn score_prompt(&mut self, scores: &[TokenLogprobs], events: &mut Vec<Event>) {
        let (prompt, text) = (std::mem::take(&mut self.scored_prompt), std::mem::take(&mut self.echo));
        let tokens = scored_prompt(&self.tokenizer, &prompt, &text, scores);
        events.push(Event::Text(TextDelta { text, tokens }));
    }

    /// Takes a token. `cached_tokens`: of the prompt, as far as the engine has said.
    pub fn push(&mut self, token: &GeneratedToken, cached_tokens: usize, events: &mut Vec<Event>) -> Flow {
        self.completion_tokens += 1;
        let was_known = self.goes_on.as_ref().is_some_and(|goes_on| !goes_on.known.is_empty());
        if let (Some(logprobs), false) = (&token.logprobs, was_known) {
            let scored = self.scored_token(token.id, logprobs);
            self.scored.push_back((self.bytes, scored));
        }
        let text = match self.markup(token.id) {
            Some(tag) => self.detokenizer.finish() + tag,
            None => self.detokenizer.push(token.id),
        };
        let Some(text) = self.new_text(text) else {
            events.push(Event::Failed("the model did not go on from what stands already".to_owned()));
            return Flow::Done;
        };
        self.known_tokens += usize::from(was_known && text.is_empty());
        let usage = TokenUsage { prompt_tokens: self.prompt_tokens, cached_tokens, completion_tokens: self.completion_tokens };
        let was_thinking = self.is_thinking();
        let flow = self.text(&text, usage, events);
        self.thinking_tokens += usize::from(was_thinking || self.is_thinking());
        flow
    }

    /// As far as it has come. `cached_tokens`: of the prompt, as far as the engine has said.
    pub fn usage_so_far(&self, cached_tokens: usize) -> Usage {
        let (prompt_tokens, completion_tokens) = (self.prompt_tokens, self.completion_tokens);
        self.usage(TokenUsage { prompt_tokens, cached_tokens, completion_tokens })
    }

    /// Of the whole reply, whoever wrote which part of it.
    fn usage(&self, own: TokenUsage) -> Usage {
        let (completion_tokens, thinking_tokens) = (own.completion_tokens.saturating_sub(self.known_tokens), self.thinking_tokens);
        match &self.goes_on {
            None => Usage { prompt_tokens: own.prompt_tokens, cached_tokens: own.cached_tokens, completion_tokens, thinking_tokens },
            Some(GoesOn { usage: before, .. }) => Usage {
                completion_tokens: before.completion_tokens + completion_tokens,
                thinking_tokens: before.thinking_tokens + thinking_tokens,
                ..*before
            },
        }
    }

    /// The engine has finished.
    pub fn finish(&mut self, reason: EngineFinish, usage: TokenUsage, events: &mut Vec<Event>) {
        let reason = match reason {
            EngineFinish::Failed(message) => return events.push(Event::Failed(message)),
            EngineFinish::Stop => FinishReason::EndOfTurn,
            EngineFinish::Length => FinishReason::Length,
        };
        let rest = self.detokenizer.finish();
        if let Some(arguments) = self.goes_on.as_ref().and_then(|goes_on| goes_on.arguments.as_ref()) {
            let end = if reason == FinishReason::EndOfTurn { arguments.end() } else { Err("its tokens are spent".to_owned()) };
            return match end {
                Ok(()) => {
                    events.push(Event::ToolCallEnded { index: self.calls - 1 });
                    self.close(FinishReason::ToolCalls, usage, events);
                }
                Err(reason) => events.push(Event::Failed(format!("the call of {:?} cannot be finished: {reason}", arguments.tool))),
            };
        }
        if self.text(&rest, usage, events) == Flow::Done {
            return;
        }
        let mut sections = Vec::new();
        if let Some(mut reasoning) = self.reasoning.take() {
            reasoning.finish(&mut sections);
        }
        if self.sections(sections, usage, events) == Flow::Done {
            return;
        }
        let mut pieces = Vec::new();
        if let Some(mut tools) = self.tools.take() {
            tools.finish(&mut pieces);
        }
        if self.pieces(pieces, usage, events) == Flow::Done {
            return;
        }
        let held = self.stops.finish();
        self.show(held, events);
        self.close(reason, usage, events);
    }

    fn is_thinking(&self) -> bool {
        self.reasoning.as_ref().is_some_and(ReasoningParser::is_thinking)
    }

    /// What of a text the client does not have. `None`: it is another one than what it has.
    fn new_text(&mut self, mut text: String) -> Option<String> {
        let Some(GoesOn { known, .. }) = &mut self.goes_on else { return Some(text) };
        let common = known.len().min(text.len());
        if known.as_bytes()[..common] != text.as_bytes()[..common] {
            return None;
        }
        known.drain(..common);
        text.drain(..common);
        Some(text)
    }

    /// Text from the detokenizer.
    fn text(&mut self, text: &str, usage: TokenUsage, events: &mut Vec<Event>) -> Flow {
        self.bytes += text.len();
        self.characters += text.chars().count();
        if let Some(arguments) = self.goes_on.as_mut().and_then(|goes_on| goes_on.arguments.as_mut()) {
            arguments.so_far.push_str(text);
            if !text.is_empty() {
                events.push(Event::ToolCallArguments { index: self.calls - 1, json: text.to_owned() });
            }
            return Flow::More;
        }
        let events_before = events.len();
        let mut sections = Vec::new();
        match &mut self.reasoning {
            Some(reasoning) => reasoning.push(text, &mut sections),
            None => sections.push(Section::Content(text.to_owned())),
        }
        let flow = self.sections(sections, usage, events);
        if flow == Flow::More {
            self.release(&mut events[events_before..]);
        }
        flow
    }

    fn sections(&mut self, sections: Vec<Section>, usage: TokenUsage, events: &mut Vec<Event>) -> Flow {
        for section in sections {
            let mut pieces = Vec::new();
            match (section, &mut self.tools) {
                // Thoughts would come after words of another model, and be taken for its own.
                (Section::Thinking(_), _) if self.goes_on.is_some() => {}
                (Section::Thinking(text), _) => events.push(Event::Thinking(text)),
                (Section::Content(text), Some(tools)) => tools.push(&text, &mut pieces),
                (Section::Content(text), None) => pieces.push(Piece::Text(text)),
            }
            if self.pieces(pieces, usage, events) == Flow::Done {
                return Flow::Done;
            }
        }
        Flow::More
    }

    fn pieces(&mut self, pieces: Vec<Piece>, usage: TokenUsage, events: &mut Vec<Event>) -> Flow {
        for piece in pieces {
            match piece {
                Piece::Text(text) => match self.stops.push(&text) {
                    Scan::Text(text) => self.show(text, events),
                    Scan::Stopped { text, stop } => {
                        self.show(text, events);
                        self.scored.clear();
                        self.close(FinishReason::StopString(stop), usage, events);
                        return Flow::Done;
                    }
                },
                Piece::CallStarted { name } => {
                    // No stop string reaches across a call.
                    let held = self.stops.finish();
                    self.show(held, events);
                    let index = self.calls;
                    self.calls += 1;
                    events.push(Event::ToolCallStarted { index, id: call_id(self.call_id_seed, index), name });
                }
                Piece::Arguments(json) => events.push(Event::ToolCallArguments { index: self.calls - 1, json }),
                Piece::CallEnded => {
                    events.push(Event::ToolCallEnded { index: self.calls - 1 });
                    // What follows the one call that was wanted is not shown.
                    if self.single_call {
                        self.close(FinishReason::ToolCalls, usage, events);
                        return Flow::Done;
                    }
                }
            }
        }
        Flow::More
    }

    fn show(&mut self, text: String, events: &mut Vec<Event>) {
        if !text.is_empty() {
            events.push(Event::Text(TextDelta { text, tokens: Vec::new() }));
        }
    }

    /// Tokens whose text became certain go with the text that was shown with it. Without any they are markup, thoughts or calls: the
    /// scores are the answer's.
    fn release(&mut self, shown: &mut [Event]) {
        let held = self.reasoning.as_ref().map_or(0, ReasoningParser::held_bytes)
            + self.tools.as_ref().map_or(0, CallReader::held_bytes)
            + self.stops.held_bytes();
        let certain_bytes = self.bytes - held;
        let certain = self.scored.partition_point(|(start, _)| *start < certain_bytes);
        self.released.extend(self.scored.drain(..certain).map(|(_, token)| token));
        let text = shown.iter_mut().find_map(|event| if let Event::Text(delta) = event { Some(delta) } else { None });
        match text {
            Some(delta) => delta.tokens = std::mem::take(&mut self.released),
            None => self.released.clear(),
        }
    }

    fn close(&mut self, reason: FinishReason, usage: TokenUsage, events: &mut Vec<Event>) {
        // Tokens without text of their own (a character cut off, a silent control token).
        self.released.extend(self.scored.drain(..).map(|(_, token)| token));
        if !self.released.is_empty() && self.calls == 0 && !self.is_thinking() {
            events.push(Event::Text(TextDelta { text: String::new(), tokens: std::mem::take(&mut self.released) }));
        }
        let reason = if self.calls > 0 && reason != FinishReason::Length { FinishReason::ToolCalls } else { reason };
        let usage = self.usage(usage);
        events.push(Event::Finished { reason, usage });
    }

    fn scored_token(&self, id: u32, logprobs: &TokenLogprobs) -> ScoredToken {
        let token = |id: u32| TokenText { bytes: self.tokenizer.token_bytes(id, true).to_vec() };
        ScoredToken {
            token: token(id),
            logprob: Some(logprobs.logprob),
            top: logprobs.top.iter().map(|&(id, logprob)| (token(id), logprob)).collect(),
            text_offset: self.characters,
        }
    }

    fn markup(&self, id: u32) -> Option<&'static str> {
        if self.markers.is_empty() || !self.tokenizer.is_control(id) {
            return None;
        }
        let name = self.tokenizer.token_name(id)?;
        self.markers.iter().find(|marker| **marker == name).copied()
    }
}

impl OpenArguments {
    /// Whether the call may end here. Errors: why not.
    fn end(&self) -> Result<(), String> {
        let written = self.so_far.trim();
        if !written.starts_with('{') {
            return Err("its arguments are no object".to_owned());
        }
        let Some(schema) = &self.to_fulfil else {
            return serde_json::from_str::<IgnoredAny>(written).map(|_| ()).map_err(|error| error.to_string());
        };
        let value: Value = serde_json::from_str(written).map_err(|error| error.to_string())?;
        match schema_check::fulfils(schema, &value) {
            true => Ok(()),
            false => Err("its arguments do not fulfil the tool's schema".to_owned()),
        }
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
