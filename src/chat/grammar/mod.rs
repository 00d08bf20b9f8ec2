//! What a reply may be, as a set of allowed tokens at each place: JSON under a schema, regular expressions, choices, grammars, tool
//! calls. The engine asks for the masks ([`crate::engine::constraint`]); llguidance computes them.
//!
//! Knows no wire format; a schema that cannot be held is refused with its place, and the dialect says which field that was.

pub mod limits;
pub mod schema;

mod cache;
mod ruled;
mod vocabulary;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use models::Tokenizer;
use serde_json::{Value, json};

use super::OutputFormat;
use crate::engine::constraint::{Constraint, Matcher};
use cache::{Cache, Key};
use limits::{GRAMMARS_KEPT, TEXT_BYTES_MAX};
use ruled::{Compiled, Ruled};
use schema::{Fidelity, SchemaError, normalised};
use vocabulary::Vocabulary;

/// The grammars of one model.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Built when it is first needed, or ahead of that by [`Self::warm_up`].
    vocabulary: OnceLock<Result<Arc<Vocabulary>, String>>,
    compiled: Mutex<Cache<Arc<Compiled>>>,
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
        Self { tokenizer, vocabulary: OnceLock::new(), compiled: Mutex::new(Cache::new(GRAMMARS_KEPT)) }
    }

    /// Does the work that the first constrained request would wait for.
    pub fn warm_up(&self) {
        if let Err(problem) = self.vocabulary() {
            tracing::warn!("this model's vocabulary cannot be constrained: {problem}");
        }
    }

    /// The constraint of a reply that is nothing but text in this format; `None`: any text will do.
    pub fn of_format(&self, format: &OutputFormat) -> Result<Option<Arc<dyn Constraint>>, GrammarError> {
        let Some(compiled) = self.compiled_format(format)? else { return Ok(None) };
        Ok(Some(Arc::new(FromTheStart(compiled))))
    }

    fn compiled_format(&self, format: &OutputFormat) -> Result<Option<Arc<Compiled>>, GrammarError> {
        let key = match format {
            OutputFormat::Text => return Ok(None),
            OutputFormat::JsonObject => Key::of(&["object"]),
            OutputFormat::JsonSchema(schema) => Key::of(&["schema", &schema.to_string()]),
            OutputFormat::Regex(regex) => Key::of(&["regex", regex]),
            OutputFormat::Choice(choices) => Key::of(&["choice", &json!(choices).to_string()]),
            OutputFormat::Lark(lark) => Key::of(&["lark", lark]),
        };
        self.compile(key, || Ok(TopLevelGrammar::from_grammar(grammar_of_format(format)?))).map(Some)
    }

    /// From the cache, or anew: not under its lock, so that a grammar that takes long holds up nobody.
    fn compile(&self, key: Key, grammar: impl FnOnce() -> Result<TopLevelGrammar, GrammarError>) -> Result<Arc<Compiled>, GrammarError> {
        if let Some(compiled) = self.cache().get(&key) {
            return Ok(compiled);
        }
        let vocabulary = self.vocabulary().map_err(|problem| GrammarError { place: Place::OutputFormat, problem })?;
        let compiled = Compiled::new(vocabulary, grammar()?).map(Arc::new).map_err(|problem| GrammarError::of_format(short(&problem)))?;
        self.cache().insert(key, compiled.clone());
        Ok(compiled)
    }

    fn vocabulary(&self) -> Result<Arc<Vocabulary>, String> {
        self.vocabulary.get_or_init(|| Vocabulary::new(self.tokenizer.clone()).map(Arc::new)).clone()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache<Arc<Compiled>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

/// One grammar, from the first token to the last.
#[derive(Debug)]
struct FromTheStart(Arc<Compiled>);

impl Constraint for FromTheStart {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        Ok(Box::new(self.0.begin()))
    }
}

impl Matcher for Ruled {
    fn allow(
        &mut self,
        output: &[u32],
        allowed: &mut crate::engine::token_mask::TokenMask,
    ) -> Result<crate::engine::constraint::Ending, String> {
        self.go_to(output)?;
        Ruled::allow(self, allowed)
    }
}

fn grammar_of_format(format: &OutputFormat) -> Result<GrammarWithLexer, GrammarError> {
    Ok(match format {
        OutputFormat::Text => GrammarWithLexer::from_lark(r#"start: /(?s:.*)/"#.to_owned()),
        OutputFormat::JsonObject => json_grammar(schema::any_object()),
        OutputFormat::JsonSchema(schema) => json_grammar(normalised(schema, Fidelity::Exact)?),
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

/// A normalised schema as a grammar.
fn json_grammar(mut schema: Value) -> GrammarWithLexer {
    if !schema.is_object() {
        schema = json!({"allOf": [schema]});
    }
    // Read by llguidance; a client's own `x-guidance` was left out with all keywords that JSON Schema does not know.
    schema["x-guidance"] = json!({"whitespace_pattern": WHITE_SPACE, "coerce_one_of": true});
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
