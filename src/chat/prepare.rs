//! A request becomes work for the engine: template, tokens, sampling, and how each reply is to be read.

use std::sync::Arc;

use models::{Tokenizer, TokenizerError};

use super::begun::{BegunContent, BegunReply};
use super::begun_arguments;
use super::chat_template::{ChatTemplate, Rendered, TemplateError};
use super::control_text::{ControlText, Stretch};
use super::grammar::reply::{CallRules, Calls, ReplyRules, Thinks};
use super::grammar::{GrammarError, Grammars};
use super::landmarks::landmarks;
use super::output::{GoesOn, OpenArguments, Output, OutputOptions, ToolOutput, split_mix};
use super::partial_json::plain;
use super::reasoning_parser::{ReasoningFormat, ReasoningStart};
use super::reply_so_far::{BegunText, Manner, reply_so_far};
use super::sequence_breakers::SequenceBreakers;
use super::stop_strings::StopStrings;
use super::thinking_budget::ThinkingBudget;
use super::token_healing::{Lead, TokenHealing, take_back};
use super::tool_formats::{harmony, shared_beginning};
use super::{
    ContextFile, Conversation, OutputFormat, Prompt, Request, SamplingDefaults, SamplingOptions, Thinking, ToolChoice, ToolDefinition,
    Usage,
};
use crate::engine::constraint::Constraint;
use crate::engine::{AdmissionError, Dry, GenerateRequest, Landmarks, SamplingParams};

/// The loaded model, as far as text is concerned.
#[derive(Debug)]
pub struct TextModel {
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    pub grammars: Grammars,
    control: ControlText,
    defaults: SamplingDefaults,
    breakers: SequenceBreakers,
    finds_landmarks: bool,
}

/// One choice to generate.
#[derive(Debug)]
pub struct Job {
    pub generate: GenerateRequest,
    pub output: Output,
}

/// A prompt as tokens, and how the reply to it is to be read.
struct Encoded {
    token_ids: Vec<u32>,
    reasoning: Option<(ReasoningFormat, ReasoningStart)>,
    tools: Option<ToolOutput>,
    thinking_tokens_max: Option<usize>,
    /// The reply goes on in the middle of a text.
    continues_prompt: bool,
    /// The beginning of what the reply is held to that the prompt holds already, as names of control tokens and texts.
    begun: Vec<String>,
    /// `Some`: somebody else has begun the reply.
    goes_on: Option<GoesOn>,
}

impl Encoded {
    /// A prompt that is no conversation.
    fn plain(token_ids: Vec<u32>) -> Self {
        Self {
            token_ids,
            reasoning: None,
            tools: None,
            thinking_tokens_max: None,
            continues_prompt: true,
            begun: Vec::new(),
            goes_on: None,
        }
    }

    /// Of so many tokens that a request allows its reply, those that are left for the engine: what the client has is spent.
    fn tokens_left(&self, tokens: usize) -> usize {
        let Some(goes_on) = &self.goes_on else { return tokens };
        match tokens.saturating_sub(goes_on.usage.completion_tokens) {
            0 => 0,
            left => left + goes_on.known_tokens,
        }
    }
}

/// What a pure function is not allowed to find out by itself.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    pub now_unix_s: i64,
    /// Random: the seed of a request that names none, and of ids.
    pub random: u64,
    /// The longest prompt the engine takes.
    pub prompt_tokens_max: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Boxed: it is large, and rare.
    #[error("{0}")]
    Tokenizer(Box<TokenizerError>),
    /// Found out here, before a prompt is copied for each choice.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error("this model's template has no calls in a format that can be forced; only \"auto\" and \"none\" are possible with it")]
    CannotForceCalls,
    #[error("this model has no fill-in-the-middle tokens, so it cannot write what stands between two texts")]
    NoFillInTheMiddle,
    #[error("logit_bias names token {id}, but the vocabulary has {vocab} tokens")]
    BiasOfUnknownToken { id: u32, vocab: usize },
    #[error("stop_token_ids names token {id}, but the vocabulary has {vocab} tokens")]
    StopAtUnknownToken { id: u32, vocab: usize },
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    #[error("only the one reply to a conversation can be gone on with")]
    BegunIsNotOneReply,
    #[error("the reply breaks off in a call of {0:?}, and the request has no such tool")]
    BegunCallsUnknownTool(String),
    #[error("the reply breaks off in a call of {tool:?} whose arguments are no beginning of a JSON object: {problem}")]
    BegunArgumentsAreNoJson { tool: String, problem: String },
}

impl From<TokenizerError> for PrepareError {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(Box::new(error))
    }
}

impl TextModel {
    pub fn new(tokenizer: Arc<Tokenizer>, template: ChatTemplate, defaults: SamplingDefaults) -> Self {
        let control = ControlText::of(&tokenizer);
        let grammars = Grammars::new(tokenizer.clone());
        Self { tokenizer, template, grammars, control, defaults, breakers: SequenceBreakers::default(), finds_landmarks: false }
    }

    /// Where a model can go on from few places only, somebody has to say which matter.
    pub fn finding_landmarks(self, finds_landmarks: bool) -> Self {
        Self { finds_landmarks, ..self }
    }

    /// Jobs in the order of the choices. The engine checks token ids. Memory: one prompt a choice, none longer than the engine takes;
    /// how many choices there may be is for the caller to bound.
    pub fn prepare(&self, request: &Request, surroundings: Surroundings) -> Result<Vec<Job>, PrepareError> {
        let vocab = self.tokenizer.vocab_size();
        if let Some(&(id, _)) = request.sampling.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(PrepareError::BiasOfUnknownToken { id, vocab });
        }
        if let Some(&id) = request.stop_token_ids.iter().find(|id| **id as usize >= vocab) {
            return Err(PrepareError::StopAtUnknownToken { id, vocab });
        }
        if request.begun.is_some() && (request.choices_per_prompt != 1 || !matches!(request.prompts[..], [Prompt::Conversation(_)])) {
            return Err(PrepareError::BegunIsNotOneReply);
        }
        let sampling = self.sampling(&request.sampling, surroundings.random);
        let mut jobs = Vec::with_capacity(request.prompts.len() * request.choices_per_prompt);
        let stop_of_request = StopStrings::new(&request.stop);
        for (prompt_index, prompt) in request.prompts.iter().enumerate() {
            let unforced = request.begun.as_ref().and_then(|reply| unforced(prompt, reply));
            let prompt = unforced.as_ref().unwrap_or(prompt);
            let mut encoded = self.encode(prompt, request.begun.as_ref(), surroundings.now_unix_s)?;
            let (prompt_tokens, context_tokens) = (encoded.token_ids.len(), surroundings.prompt_tokens_max);
            if prompt_tokens > context_tokens {
                return Err(AdmissionError::PromptTooLong { prompt_tokens, context_tokens }.into());
            }
            let tokens_max = request.tokens_max.map(|tokens| encoded.tokens_left(tokens));
            let constraint = self.constraint(request, prompt, &mut encoded, tokens_max)?;
            let token_ids = &encoded.token_ids;
            let stop = match self.word_that_ends_turns(prompt) {
                None => stop_of_request.clone(),
                Some(word) => StopStrings::new(&[request.stop.as_slice(), &[word.to_owned()]].concat()),
            };
            let prompt_logprobs = request.top_logprobs.filter(|_| request.echo);
            let landmarks = match prompt {
                Prompt::Conversation(conversation) if self.finds_landmarks => {
                    landmarks(conversation, token_ids.iter().map(|token| self.tokenizer.token_bytes(*token, true)))
                }
                _ => Landmarks::default(),
            };
            let echo = if request.echo { self.echo(prompt, token_ids) } else { String::new() };
            for choice in 0..request.choices_per_prompt {
                let index = prompt_index * request.choices_per_prompt + choice;
                let options = OutputOptions {
                    stop: stop.clone(),
                    reasoning: encoded.reasoning,
                    tools: encoded.tools.clone(),
                    echo: echo.clone(),
                    scored_prompt: prompt_logprobs.map(|_| token_ids.clone()).unwrap_or_default(),
                    continues_prompt: encoded.continues_prompt,
                    goes_on: encoded.goes_on.clone(),
                    prompt_tokens: token_ids.len(),
                    call_id_seed: split_mix(surroundings.random ^ index as u64),
                };
                let generate = GenerateRequest {
                    prompt: token_ids.clone(),
                    tokens_max,
                    tokens_min: encoded.tokens_left(request.tokens_min),
                    stop_token_ids: self.stop_token_ids(request),
                    sampling: SamplingParams { seed: seed_of_choice(sampling.seed, choice), ..sampling.clone() },
                    top_logprobs: request.top_logprobs,
                    prompt_logprobs,
                    priority: request.priority,
                    constraint: constraint.clone(),
                    landmarks,
                };
                jobs.push(Job { generate, output: Output::new(self.tokenizer.clone(), options) });
            }
        }
        Ok(jobs)
    }

    /// The length of a request's prompts, each counted once, however long the engine would take them.
    pub fn prompt_tokens(&self, request: &Request, now_unix_s: i64) -> Result<usize, PrepareError> {
        request.prompts.iter().map(|prompt| Ok(self.encode(prompt, None, now_unix_s)?.token_ids.len())).sum()
    }

    /// Token ids of a prompt, of any length.
    pub fn tokens(&self, prompt: &Prompt, now_unix_s: i64) -> Result<Vec<u32>, PrepareError> {
        Ok(self.encode(prompt, None, now_unix_s)?.token_ids)
    }

    /// The text of a conversation's prompt. That what looks like control tokens in a message is none of them cannot be seen in it.
    pub fn rendered(&self, conversation: &Conversation, now_unix_s: i64) -> Result<String, PrepareError> {
        let rendered = self.template.render(conversation, &self.control, now_unix_s)?.text;
        let stretches = self.control.stretches(&rendered).into_iter();
        Ok(stretches.map(|(Stretch::Template(text) | Stretch::Literal(text))| text).collect())
    }

    fn encode(&self, prompt: &Prompt, reply: Option<&BegunReply>, now_unix_s: i64) -> Result<Encoded, PrepareError> {
        Ok(match prompt {
            Prompt::Tokens(ids) => Encoded::plain(ids.clone()),
            Prompt::Text(text) => Encoded::plain(self.tokenizer.encode_with_specials(text, true)?),
            Prompt::FillInTheMiddle { prefix, suffix, files } => Encoded::plain(self.encode_middle(prefix, suffix, files)?),
            Prompt::Conversation(conversation) => self.encode_conversation(conversation, reply, now_unix_s)?,
        })
    }

    fn encode_conversation(
        &self,
        conversation: &Conversation,
        reply: Option<&BegunReply>,
        now_unix_s: i64,
    ) -> Result<Encoded, PrepareError> {
        let (tools, begun) = self.tool_output(conversation)?.unzip();
        let begun = begun.unwrap_or_default();
        let Rendered { text: rendered, prefill } = match reply {
            None => self.template.render(conversation, &self.control, now_unix_s)?,
            Some(_) => self.render_without_thoughts(conversation, now_unix_s)?,
        };
        let reasoning = self.template.reasoning(conversation);
        let manner = Manner { calls: self.template.tool_format(), thoughts: reasoning };
        let so_far = reply.map(|reply| reply_so_far(reply, conversation, manner)).unwrap_or_default();
        let mut start = reasoning.map_or(ReasoningStart::Open, |format| match &prefill {
            Some(prefill) => format.start_within(prefill),
            None => format.start_after(&rendered),
        });
        // Thoughts that the template opens all the same are closed for the model; a call that is begun for it stands after them, and so
        // does what another model has said.
        let is_closed = conversation.thinking.wanted == Some(false) || !begun.is_empty() || reply.is_some();
        let closing = reasoning.filter(|_| is_closed && prefill.is_none()).and_then(|format| format.closing_after(&rendered));
        let open = reply.and_then(BegunReply::open_piece);
        let follows_words =
            !so_far.is_empty() && (reasoning != Some(ReasoningFormat::Harmony) || matches!(open, Some(BegunContent::Text(_))));
        if follows_words || closing.is_some() || !begun.is_empty() {
            start = ReasoningStart::Content;
        }
        // The template writes the bos token itself where the model wants one.
        let stretches = self.control.stretches(&rendered).into_iter().map(|stretch| match stretch {
            Stretch::Template(text) => (text, true),
            Stretch::Literal(text) => (text, false),
        });
        let closing = closing.iter().map(|text| (text.as_str(), true));
        let texts_begun = match reply {
            Some(reply) if begun.is_empty() => prefill.iter().cloned().chain(reply.texts().map(str::to_owned)).collect(),
            _ => begun.iter().map(|begun| begun.text.clone()).chain(prefill.clone()).collect(),
        };
        let begun = so_far.iter().chain(&begun).map(|begun| (begun.text.as_str(), begun.is_marker));
        let mut token_ids = self.tokenizer.encode_parts(stretches.chain(closing).chain(begun))?;
        let goes_on = reply.map(|reply| self.goes_on(reply, &mut token_ids)).transpose()?;
        Ok(Encoded {
            token_ids,
            reasoning: reasoning.map(|format| (format, start)),
            tools,
            thinking_tokens_max: conversation.thinking.budget_tokens,
            continues_prompt: prefill.is_some() || !so_far.is_empty(),
            begun: texts_begun,
            goes_on,
        })
    }

    /// The template's own way to leave thinking out, where that changes nothing but the prompt's end: what is computed of the prompt
    /// already is of use.
    fn render_without_thoughts(&self, conversation: &Conversation, now_unix_s: i64) -> Result<Rendered, PrepareError> {
        let rendered = self.template.render(conversation, &self.control, now_unix_s)?;
        if self.template.reasoning(conversation).is_none() || rendered.prefill.is_some() || conversation.thinking.wanted == Some(false) {
            return Ok(rendered);
        }
        let thinking = Thinking { wanted: Some(false), ..conversation.thinking };
        let without = self.template.render(&Conversation { thinking, ..conversation.clone() }, &self.control, now_unix_s);
        Ok(without.ok().filter(|without| without.text.starts_with(&rendered.text)).unwrap_or(rendered))
    }

    /// How the reply goes on, for whose prompt these are the tokens.
    fn goes_on(&self, reply: &BegunReply, prompt: &mut Vec<u32>) -> Result<GoesOn, PrepareError> {
        let said: Vec<usize> =
            reply.said().map(|text| Ok(self.tokenizer.encode(text, false)?.len())).collect::<Result<_, TokenizerError>>()?;
        let said: usize = said.iter().sum();
        let told = reply.usage;
        let prompt_tokens = if told.prompt_tokens > 0 { told.prompt_tokens } else { prompt.len().saturating_sub(said) };
        let usage = Usage {
            prompt_tokens,
            cached_tokens: told.cached_tokens.min(prompt_tokens),
            // Most tell it at the end only, which did not come.
            completion_tokens: told.completion_tokens.max(said),
            thinking_tokens: told.thinking_tokens,
        };
        let (open, arguments) = match reply.open_piece() {
            Some(BegunContent::Text(text)) => (text.as_str(), None),
            Some(BegunContent::ToolCall { name, arguments, .. }) => {
                (arguments.as_str(), Some(OpenArguments { tool: name.clone(), so_far: arguments.clone(), to_fulfil: None }))
            }
            Some(BegunContent::Thinking(_) | BegunContent::Other) | None => ("", None),
        };
        let tokens = prompt.len();
        let known = take_back(&self.tokenizer, prompt, open);
        Ok(GoesOn { known, known_tokens: tokens - prompt.len(), calls: reply.calls(), usage, arguments })
    }

    /// What holds for what the model says; `None`: nothing.
    fn constraint(
        &self,
        request: &Request,
        prompt: &Prompt,
        encoded: &mut Encoded,
        tokens_max: Option<usize>,
    ) -> Result<Option<Arc<dyn Constraint>>, PrepareError> {
        let Some(goes_on) = &mut encoded.goes_on else { return self.constraint_of_reply(request, prompt, encoded, tokens_max) };
        let mut lead = Lead { known: goes_on.known.clone(), escape: None };
        let rest = match (&mut goes_on.arguments, prompt) {
            (Some(arguments), Prompt::Conversation(conversation)) => {
                let tool = conversation.tools.iter().find(|tool| tool.name == arguments.tool);
                let tool = tool.ok_or_else(|| PrepareError::BegunCallsUnknownTool(arguments.tool.clone()))?;
                let held = begun_arguments::held(&self.grammars, tool, &arguments.so_far, tokens_max);
                let held =
                    held.map_err(|error| PrepareError::BegunArgumentsAreNoJson { tool: tool.name.clone(), problem: error.problem })?;
                arguments.to_fulfil = held.to_fulfil;
                lead.known += &held.forced;
                lead.escape = held.escape;
                held.constraint
            }
            _ => self.constraint_of_reply(request, prompt, encoded, tokens_max)?,
        };
        Ok(match lead.is_empty() {
            true => rest,
            false => Some(Arc::new(TokenHealing::new(self.tokenizer.clone(), lead, rest))),
        })
    }

    fn constraint_of_reply(
        &self,
        request: &Request,
        prompt: &Prompt,
        encoded: &Encoded,
        tokens_max: Option<usize>,
    ) -> Result<Option<Arc<dyn Constraint>>, PrepareError> {
        let mut calls = None;
        if let (Prompt::Conversation(conversation), Some(format)) = (prompt, self.template.tool_format()) {
            let single = !conversation.parallel_tool_calls || matches!(conversation.tool_choice, ToolChoice::Named(_));
            let tools = conversation.tools.iter().enumerate().filter(|(_, tool)| conversation.tool_choice.includes(&tool.name)).collect();
            calls = Some((&conversation.tool_choice, CallRules { format, tools, several: !single }));
        }
        let calls = match &calls {
            Some((ToolChoice::None, rules)) if !rules.tools.is_empty() => Calls::Forbidden(rules.format),
            Some((choice, rules)) if !rules.tools.is_empty() => match choice {
                ToolChoice::Auto | ToolChoice::None | ToolChoice::Allowed { required: false, .. } => Calls::Possible(rules),
                ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Allowed { required: true, .. } => Calls::Required(rules),
            },
            _ => Calls::Unknown,
        };
        let rules = ReplyRules { thinking: thinks(encoded.reasoning), calls, output: &request.output_format, begun: &encoded.begun };
        let mut constraint = self.grammars.of_reply(&rules, tokens_max);
        if let (Err(_), Some(_), OutputFormat::JsonObject | OutputFormat::JsonSchema(_)) = (&constraint, &encoded.goes_on, rules.output) {
            // Another model may have written it in ways that ours may not.
            let begun = [plain(&encoded.begun.concat()).text];
            constraint = self.grammars.of_reply(&ReplyRules { begun: &begun, ..rules }, tokens_max);
        }
        let constraint = constraint?;
        match (encoded.thinking_tokens_max, encoded.reasoning) {
            (Some(tokens_max), Some(reasoning)) if reasoning.1 != ReasoningStart::Content => {
                Ok(Some(Arc::new(ThinkingBudget::new(self.tokenizer.clone(), reasoning, tokens_max, constraint)?)))
            }
            _ => Ok(constraint),
        }
    }

    /// Prefix, suffix, middle: the order all models with these tokens were trained on (Bavarian et al. 2022, "PSM"). Other files come
    /// before, each behind the model's separator of files and its name, as Qwen2.5-Coder and StarCoder 2 were trained; a model without a
    /// separator reads them as text.
    fn encode_middle(&self, prefix: &str, suffix: &str, files: &[ContextFile]) -> Result<Vec<u32>, PrepareError> {
        let fim = self.tokenizer.fim();
        let (Some(before), Some(after), Some(middle)) = (fim.prefix, fim.suffix, fim.middle) else {
            return Err(PrepareError::NoFillInTheMiddle);
        };
        // The bos token, where the model wants one.
        let mut ids = self.tokenizer.encode_with_specials("", true)?;
        for file in files {
            ids.extend(fim.file_separator);
            let text = match &file.name {
                Some(name) => format!("{name}\n{}\n", file.text),
                None => format!("{}\n", file.text),
            };
            ids.extend(self.tokenizer.encode(&text, false)?);
        }
        if !files.is_empty() {
            ids.extend(fim.file_separator);
        }
        ids.push(before);
        ids.extend(self.tokenizer.encode(prefix, false)?);
        ids.push(after);
        ids.extend(self.tokenizer.encode(suffix, false)?);
        ids.push(middle);
        Ok(ids)
    }

    /// How calls are to be read, and the beginning of one: a forced call is begun for the model, up to the part that it decides.
    fn tool_output(&self, conversation: &Conversation) -> Result<Option<(ToolOutput, Vec<BegunText>)>, PrepareError> {
        if conversation.tools.is_empty() || conversation.tool_choice == ToolChoice::None {
            return Ok(None);
        }
        let forced: Option<Vec<&ToolDefinition>> = match &conversation.tool_choice {
            ToolChoice::Named(name) => Some(conversation.tools.iter().filter(|tool| tool.name == *name).collect()),
            ToolChoice::Required => Some(conversation.tools.iter().collect()),
            ToolChoice::Allowed { names, required: true } => {
                Some(conversation.tools.iter().filter(|tool| names.contains(&tool.name)).collect())
            }
            ToolChoice::Auto | ToolChoice::None | ToolChoice::Allowed { .. } => None,
        };
        let Some(format) = self.template.tool_format() else {
            return if forced.is_some() { Err(PrepareError::CannotForceCalls) } else { Ok(None) };
        };
        let pieces = forced.map(|tools| shared_beginning(format, &tools)).unwrap_or_default().into_iter();
        let begun: Vec<BegunText> = pieces.filter_map(BegunText::of).collect();
        let single_call = !conversation.parallel_tool_calls || matches!(conversation.tool_choice, ToolChoice::Named(_));
        let text = begun.iter().map(|begun| begun.text.as_str()).collect();
        Ok(Some((ToolOutput { format, tools: conversation.tools.clone().into(), single_call, begun: text }, begun)))
    }

    /// Where ChatML stands in for a missing template: what ends its turns, if the model has no token for it.
    fn word_that_ends_turns(&self, prompt: &Prompt) -> Option<&'static str> {
        const END: &str = "<|im_end|>";
        let by_word = matches!(prompt, Prompt::Conversation(_)) && self.template.is_fallback() && self.tokenizer.token_id(END).is_none();
        by_word.then_some(END)
    }

    fn echo(&self, prompt: &Prompt, token_ids: &[u32]) -> String {
        match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::FillInTheMiddle { prefix, .. } => prefix.clone(),
            Prompt::Tokens(_) | Prompt::Conversation(_) => {
                let bytes: Vec<u8> = token_ids.iter().flat_map(|&id| self.tokenizer.token_bytes(id, true)).copied().collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// Ends of turn, unless they are to be ignored, and what the request adds.
    fn stop_token_ids(&self, request: &Request) -> Vec<u32> {
        let own: &[u32] = if request.ignore_end_of_turn { &[] } else { self.tokenizer.end_of_generation() };
        [own, &request.stop_token_ids].concat()
    }

    /// Of the first choice.
    fn sampling(&self, options: &SamplingOptions, random: u64) -> SamplingParams {
        let neutral = SamplingParams::default();
        let defaults = &self.defaults;
        SamplingParams {
            temperature: options.temperature.or(defaults.temperature).unwrap_or(neutral.temperature),
            top_k: options.top_k.or(defaults.top_k).filter(|k| *k > 0),
            typical_p: options.typical_p.unwrap_or(neutral.typical_p),
            top_p: options.top_p.or(defaults.top_p).unwrap_or(neutral.top_p),
            min_p: options.min_p.or(defaults.min_p).unwrap_or(neutral.min_p),
            seed: options.seed.unwrap_or(random),
            repetition_penalty: options.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(neutral.repetition_penalty),
            presence_penalty: options.presence_penalty.unwrap_or(0.0),
            frequency_penalty: options.frequency_penalty.unwrap_or(0.0),
            repeat_last_n: options.repeat_last_n,
            dry: options.dry.as_ref().map(|dry| Dry {
                multiplier: dry.multiplier,
                base: dry.base,
                allowed_length: dry.allowed_length,
                last_n: dry.last_n,
                breakers: self.breakers.tokens(&self.tokenizer, dry.breakers.as_deref()),
            }),
            logit_bias: options.logit_bias.clone(),
        }
    }
}

/// A call that must come is no longer begun for the model where it would interrupt what another has begun to say, or has come already.
/// `None`: the prompt stays as it is.
fn unforced(prompt: &Prompt, reply: &BegunReply) -> Option<Prompt> {
    let Prompt::Conversation(conversation) = prompt else { return None };
    if reply.calls() == 0 && !matches!(reply.open_piece(), Some(BegunContent::Text(_))) {
        return None;
    }
    let tool_choice = match &conversation.tool_choice {
        ToolChoice::Required | ToolChoice::Named(_) => ToolChoice::Auto,
        ToolChoice::Allowed { names, required: true } => ToolChoice::Allowed { names: names.clone(), required: false },
        ToolChoice::Auto | ToolChoice::None | ToolChoice::Allowed { required: false, .. } => return None,
    };
    Some(Prompt::Conversation(Conversation { tool_choice, ..conversation.clone() }))
}

/// How the thoughts of a reply end, so that what is ruled begins.
fn thinks(reasoning: Option<(ReasoningFormat, ReasoningStart)>) -> Thinks<'static> {
    match reasoning {
        None | Some((_, ReasoningStart::Content)) => Thinks::Not,
        Some((ReasoningFormat::Tags { close, .. }, ReasoningStart::Thinking)) => Thinks::Open { close },
        Some((ReasoningFormat::Tags { open, close, .. }, ReasoningStart::Open)) => Thinks::Possible { open, close },
        Some((ReasoningFormat::Harmony, _)) => Thinks::Messages { answer: harmony::ANSWER },
    }
}

/// The first choice is the one a request with n = 1 gets.
fn seed_of_choice(seed: u64, choice: usize) -> u64 {
    if choice == 0 { seed } else { split_mix(seed.wrapping_add(choice as u64)) }
}
