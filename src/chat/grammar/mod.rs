//! What a reply may be, as a set of allowed tokens at each place: JSON under a schema, regular expressions, choices, grammars, tool
//! calls. The engine asks for the masks ([`crate::engine::constraint`]); llguidance computes them.
//!
//! Knows no wire format; a schema that cannot be held is refused with its place, and the dialect says which field that was.

pub mod limits;
pub mod reply;
pub mod schema;

mod cache;
mod calls;
mod closing;
mod formats;
mod mark;
mod plan;
mod ruled;
mod vocabulary;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::GrammarWithLexer;
use models::Tokenizer;
use serde_json::{Value, json};

use super::OutputFormat;
use crate::engine::constraint::{Constraint, Ending};
use crate::engine::token_mask::TokenMask;
use cache::{Cache, Key};
use closing::{Closers, Closing};
use limits::{GRAMMARS_KEPT, TEXT_BYTES_MAX};
use plan::{Plan, PlannedReply};
use reply::{Calls, ReplyRules, Thinks};
use schema::{Fidelity, SchemaError, normalised};
use vocabulary::Vocabulary;

/// The grammars of one model.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Built when it is first needed, or ahead of that by [`Self::warm_up`].
    vocabulary: OnceLock<Result<Arc<Vocabulary>, String>>,
    plans: Mutex<Cache<Arc<Plan>>>,
    closers: OnceLock<Arc<Closers>>,
}

/// What a request asked for cannot be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct GrammarError {
    pub place: Place,
    pub problem: String,
}

/// Which part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    OutputFormat,
    /// The parameters of the tool of this index.
    Tool(usize),
}

impl Grammars {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, vocabulary: OnceLock::new(), plans: Mutex::new(Cache::new(GRAMMARS_KEPT)), closers: OnceLock::new() }
    }

    /// Does the work that the first constrained request would wait for.
    pub fn warm_up(&self) {
        if let Err(problem) = self.vocabulary() {
            tracing::warn!("this model's vocabulary cannot be constrained: {problem}");
        }
    }

    /// The constraint of a reply that is nothing but text in this format; `None`: any text will do.
    pub fn of_format(&self, format: &OutputFormat) -> Result<Option<Arc<dyn Constraint>>, GrammarError> {
        self.of_reply(&ReplyRules { thinking: Thinks::Not, calls: Calls::Unknown, output: format, begun: &[] }, None)
    }

    /// The constraint of a whole reply; `None`: every reply will do. `tokens_max`: what has to end is brought to its end before.
    pub fn of_reply(&self, rules: &ReplyRules<'_>, tokens_max: Option<usize>) -> Result<Option<Arc<dyn Constraint>>, GrammarError> {
        if rules.are_none() {
            return Ok(None);
        }
        let key = Key::of(&rules.identity());
        let found = self.cache().get(&key);
        let plan = match found {
            Some(plan) => plan,
            // Not under the cache's lock, so that a grammar that takes long holds up nobody.
            None => {
                let vocabulary = self.vocabulary().map_err(GrammarError::of_format)?;
                let plan = Arc::new(rules.plan(&vocabulary)?);
                self.cache().insert(key, plan.clone());
                plan
            }
        };
        let closers = || self.closers.get_or_init(|| Arc::new(Closers::new(&self.tokenizer))).clone();
        let closing = tokens_max.map(|tokens_max| Closing::new(closers(), tokens_max, rules.output));
        Ok(Some(Arc::new(PlannedReply { plan, closing })))
    }

    /// Characters of a JSON string with which an output under this constraint may begin, those that must be escapes included. Some that no
    /// token begins with may be missing.
    pub fn first_characters(&self, constraint: &dyn Constraint) -> Vec<char> {
        let mut allowed = TokenMask::none(self.tokenizer.vocab_size());
        if !constraint.matcher().and_then(|mut matcher| matcher.allow(&[], &mut allowed)).is_ok_and(|ending| ending != Ending::Anything) {
            return Vec::new();
        }
        let tokens = (0..self.tokenizer.vocab_size() as u32).filter(|&token| allowed.contains(token));
        let first = tokens.filter_map(|token| self.tokenizer.token_bytes(token, false).utf8_chunks().next()?.valid().chars().next());
        let characters: BTreeSet<char> = first.collect();
        let escapes = if characters.contains(&'\\') { ESCAPED } else { &[] };
        characters.into_iter().filter(|character| !matches!(character, '"' | '\\')).chain(escapes.iter().copied()).collect()
    }

    fn vocabulary(&self) -> Result<Arc<Vocabulary>, String> {
        self.vocabulary.get_or_init(|| Vocabulary::new(self.tokenizer.clone()).map(Arc::new)).clone()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache<Arc<Plan>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Characters that JSON has in no string as they are, as far as models write them.
const ESCAPED: &[char] = &['"', '\\', '\n', '\t', '\r', '\u{8}', '\u{c}'];

impl fmt::Debug for Grammars {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Grammars({:?})", self.tokenizer)
    }
}

impl GrammarError {
    fn of_format(problem: impl Into<String>) -> Self {
        Self { place: Place::OutputFormat, problem: problem.into() }
    }
}

impl From<SchemaError> for GrammarError {
    fn from(error: SchemaError) -> Self {
        Self::of_format(error.to_string())
    }
}

fn grammar_of_format(format: &OutputFormat) -> Result<GrammarWithLexer, GrammarError> {
    Ok(match format {
        OutputFormat::Text => GrammarWithLexer::from_lark(r#"start: /(?s:.*)/"#.to_owned()),
        OutputFormat::JsonObject => json_grammar(schema::any_object(), Escapes::Needed),
        OutputFormat::JsonSchema(schema) => json_grammar(normalised(schema, Fidelity::Exact)?, Escapes::Needed),
        OutputFormat::Regex(regex) => {
            check_size("the expression", regex)?;
            GrammarWithLexer::from_regex(regex)
        }
        OutputFormat::Choice(choices) => {
            let texts: Vec<String> = choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
            let lark = format!("start: CHOICE\nCHOICE: {}", texts.join(" | "));
            check_size("the list of choices", &lark)?;
            GrammarWithLexer::from_lark(lark)
        }
        OutputFormat::Lark(lark) => {
            check_size("the grammar", lark)?;
            GrammarWithLexer::from_lark(lark.clone())
        }
    })
}

fn check_size(what: &str, text: &str) -> Result<(), GrammarError> {
    match text.len() > TEXT_BYTES_MAX {
        true => Err(GrammarError::of_format(format!("{what} has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len()))),
        false => Ok(()),
    }
}

/// JSON as models write it: compact, with a space after `:` and `,`, or indented. Bounded, so that a weak model cannot write spaces
/// for ever.
const WHITE_SPACE: &str = r"[ ]|\n[ \t]{0,32}";

/// Which characters of strings may be written as escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// Those that JSON does not allow as they are.
    Needed,
    /// All, but where an expression or a list of texts describes the string.
    Any,
}

/// A normalised schema as a grammar.
fn json_grammar(mut schema: Value, escapes: Escapes) -> GrammarWithLexer {
    if !schema.is_object() {
        schema = json!({"allOf": [schema]});
    }
    // Read by llguidance; a client's own `x-guidance` was left out with all keywords that JSON Schema does not know.
    schema["x-guidance"] = json!({
        "whitespace_pattern": WHITE_SPACE, "coerce_one_of": true, "json_allow_general_unicode_escapes": escapes == Escapes::Any
    });
    GrammarWithLexer::from_json_schema(schema)
}

/// llguidance shows the whole grammar beside some of its errors.
fn short(problem: &str) -> String {
    const CHARACTERS_MAX: usize = 400;
    let problem = problem.split("\n<").next().unwrap_or(problem).trim();
    match problem.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", &problem[..end]),
        None => problem.to_owned(),
    }
}
