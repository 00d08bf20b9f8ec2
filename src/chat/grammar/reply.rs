//! What a whole reply may be: thinking, an answer in words or in a format, calls of the tools that were given; and in which order. The
//! result is a [`Plan`].

use std::sync::Arc;

use super::calls::{Lark, SchemaFidelity};
use super::mark::{Mark, Then};
use super::plan::{Free, MARKS_MAX, Plan, Stage};
use super::ruled::Compiled;
use super::vocabulary::Vocabulary;
use super::{GrammarError, Place, grammar_of_format, short};
use crate::chat::tool_formats::{CallPiece, ToolFormat};
use crate::chat::{OutputFormat, ToolDefinition};

/// What is wanted of a reply.
#[derive(Debug, Clone, Copy)]
pub struct ReplyRules<'a> {
    pub thinking: Thinks<'a>,
    pub calls: Calls<'a>,
    pub output: &'a OutputFormat,
    /// What the prompt already holds of a reply that is ruled from its beginning, as names of control tokens and texts.
    pub begun: &'a [String],
}

/// Thinking, before everything else. It is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinks<'a> {
    Not,
    /// The prompt has opened it, or may not be without.
    Open {
        close: &'a str,
    },
    /// The model decides.
    Possible {
        open: &'a str,
        close: &'a str,
    },
    /// A reply of several messages (harmony): what is ruled begins after this text, unless it is a call.
    Messages {
        answer: &'a str,
    },
}

#[derive(Debug, Clone, Copy)]
pub enum Calls<'a> {
    /// There is nothing to call, or no known way to do so.
    Unknown,
    Forbidden(&'a dyn ToolFormat),
    Possible(&'a CallRules<'a>),
    Required(&'a CallRules<'a>),
}

#[derive(Debug)]
pub struct CallRules<'a> {
    pub format: &'a dyn ToolFormat,
    /// Those that may be called, with their place in the request.
    pub tools: Vec<(usize, &'a ToolDefinition)>,
    /// More than one call in a reply.
    pub several: bool,
}

impl ReplyRules<'_> {
    /// Whether every reply will do.
    pub fn are_none(&self) -> bool {
        *self.output == OutputFormat::Text && matches!(self.calls, Calls::Unknown)
    }

    /// What makes two rules the same, for the cache of compiled grammars.
    pub fn identity(&self) -> Vec<String> {
        let mut parts = vec![format!("{:?}", self.thinking), format!("{:?}", self.output), format!("{:?}", self.begun)];
        match self.calls {
            Calls::Unknown => parts.push("unknown".to_owned()),
            Calls::Forbidden(format) => parts.extend(["forbidden".to_owned(), format.name().to_owned()]),
            Calls::Possible(calls) => parts.extend(calls.identity("possible")),
            Calls::Required(calls) => parts.extend(calls.identity("required")),
        }
        parts
    }

    pub fn plan(&self, vocabulary: &Arc<Vocabulary>) -> Result<Plan, GrammarError> {
        let is_ruled = *self.output != OutputFormat::Text || matches!(self.calls, Calls::Required(_));
        let stages = if is_ruled { self.ruled_stages(vocabulary)? } else { self.free_stages(vocabulary)? };
        let begun = match &stages[0] {
            Stage::Ruled { grammar, .. } => {
                let begun = vocabulary.tokens_of_parts(self.begun);
                let fits = grammar.begin().go_to(&begun, &[]);
                fits.map_err(|_| GrammarError::of_format("the text that the reply goes on from does not fit"))?;
                begun
            }
            Stage::Free(_) => Vec::new(),
        };
        Ok(Plan { vocabulary: vocabulary.clone(), stages, begun })
    }

    /// A reply under a grammar from its first character on, but for thinking.
    fn ruled_stages(&self, vocabulary: &Arc<Vocabulary>) -> Result<Vec<Stage>, GrammarError> {
        let ruled = |before: Before<'_>, leave| -> Result<Stage, GrammarError> {
            Ok(Stage::Ruled { grammar: self.grammar(before, vocabulary)?, leave })
        };
        Ok(match self.thinking {
            Thinks::Not => vec![ruled(Before::Nothing, None)?],
            // A call that is required is begun in the prompt.
            Thinks::Messages { .. } if matches!(self.calls, Calls::Required(_)) => vec![ruled(Before::Nothing, None)?],
            Thinks::Messages { answer: close } | Thinks::Open { close } => {
                vec![thinking(close, 1, false, vocabulary), ruled(Before::Thinking, None)?]
            }
            Thinks::Possible { open, close } => vec![
                ruled(Before::PerhapsThinking(open), Some((open.as_bytes().to_vec(), 1)))?,
                thinking(close, 2, false, vocabulary),
                ruled(Before::Thinking, None)?,
            ],
        })
    }

    /// A reply in words, in which calls may be opened.
    fn free_stages(&self, vocabulary: &Arc<Vocabulary>) -> Result<Vec<Stage>, GrammarError> {
        let begins_thinking = matches!(self.thinking, Thinks::Open { .. });
        let text = usize::from(begins_thinking);
        let mut marks = Vec::new();
        let mut calls_stage = None;
        match self.calls {
            Calls::Unknown | Calls::Required(_) => {}
            // What begins bare is an answer like any other if nobody looks for calls.
            Calls::Forbidden(format) if format.begins_bare() => {}
            Calls::Forbidden(format) => marks.extend(forbidden(format.openings(), vocabulary)),
            Calls::Possible(calls) => {
                if let Some(opening) = calls.opening() {
                    marks.push(Mark::new(&opening.parts, opening.only_first, Then::Begins(text + 1), vocabulary));
                    marks.extend(forbidden(opening.others, vocabulary));
                    calls_stage = Some(Stage::Ruled { grammar: self.grammar(Before::Nothing, vocabulary)?, leave: None });
                }
            }
        }
        let mut thinking_stage = None;
        match self.thinking {
            Thinks::Not | Thinks::Messages { .. } => {}
            Thinks::Open { close } => thinking_stage = Some(thinking(close, text, true, vocabulary)),
            Thinks::Possible { open, close } => {
                let stage = text + 1 + usize::from(calls_stage.is_some());
                marks.push(Mark::new(&[open.to_owned()], true, Then::EndsFor(stage), vocabulary));
                thinking_stage = Some(thinking(close, text, true, vocabulary));
            }
        }
        let text_stage = Stage::Free(Free { marks, may_end: true });
        let (first, last) = if begins_thinking { (thinking_stage, None) } else { (None, thinking_stage) };
        Ok([first, Some(text_stage), calls_stage, last].into_iter().flatten().collect())
    }

    fn grammar(&self, before: Before<'_>, vocabulary: &Arc<Vocabulary>) -> Result<Arc<Compiled>, GrammarError> {
        let compile = |fidelities: &[SchemaFidelity]| -> Result<Arc<Compiled>, GrammarError> {
            let mut lark = Lark::new(vocabulary);
            let mut ways = Vec::new();
            match self.calls {
                Calls::Possible(calls) | Calls::Required(calls) => ways.push(calls.expression(fidelities, &mut lark)?),
                Calls::Unknown | Calls::Forbidden(_) => {}
            }
            if *self.output != OutputFormat::Text && !matches!(self.calls, Calls::Required(_)) {
                ways.push(lark.grammar(grammar_of_format(self.output)?));
            }
            let reply = lark.rule(&ways.join(" | "));
            let start = match before {
                Before::Nothing => reply,
                Before::Thinking => format!("/\\n{{1,2}}/? {reply}"),
                Before::PerhapsThinking(open) => format!("{} | {reply}", lark.tag(open)),
            };
            let compiled = Compiled::new(vocabulary.clone(), lark.finish(&start));
            compiled.map(Arc::new).map_err(|problem| GrammarError::of_format(short(&problem)))
        };
        let (Calls::Possible(calls) | Calls::Required(calls)) = self.calls else { return compile(&[]) };
        let mut fidelities = calls.first_fidelities();
        let error = match compile(&fidelities) {
            Ok(compiled) => return Ok(compiled),
            Err(error) => error,
        };
        calls.lower(&mut fidelities, vocabulary)?;
        compile(&fidelities).map_err(|again| if again.place == Place::OutputFormat { error } else { again })
    }
}

/// What may stand before the ruled part of a reply.
#[derive(Debug, Clone, Copy)]
enum Before<'a> {
    Nothing,
    /// Line breaks, as models put them after it.
    Thinking,
    /// The tag that opens it, instead of everything else.
    PerhapsThinking(&'a str),
}

/// Where calls begin in free text.
struct Opening {
    parts: Vec<String>,
    only_first: bool,
    /// What the model might write instead, and is kept from, since no grammar guards what follows.
    others: &'static [&'static str],
}

impl CallRules<'_> {
    fn identity(&self, how: &str) -> Vec<String> {
        let mut parts = vec![how.to_owned(), self.format.name().to_owned(), self.several.to_string()];
        for (_, tool) in &self.tools {
            let schema = tool.parameters.as_ref().map(ToString::to_string).unwrap_or_default();
            parts.extend([tool.name.clone(), tool.strict.to_string(), schema]);
        }
        parts
    }

    fn opening(&self) -> Option<Opening> {
        let beginning = self.beginning();
        let text = beginning.concat();
        match self.format.openings().split_first() {
            // The tag says it all.
            Some((first, others)) if text.starts_with(first) && !self.format.begins_bare() && !self.shares_its_opening() => {
                Some(Opening { parts: vec![(*first).to_owned()], only_first: false, others })
            }
            _ if text.is_empty() || text.len() > Mark::BYTES_MAX => None,
            _ => Some(Opening { parts: beginning, only_first: self.format.begins_bare(), others: &[] }),
        }
    }

    /// Whether what opens a call opens other things too: then only more of the call tells that it is one.
    fn shares_its_opening(&self) -> bool {
        self.format.name() == "harmony"
    }

    /// What the calls of all tools begin with, up to the first name.
    fn beginning(&self) -> Vec<String> {
        let Some((_, tool)) = self.tools.first() else { return Vec::new() };
        let mut pieces = self.format.frame().open;
        pieces.extend(self.format.call_syntax(tool));
        let fixed = pieces.into_iter().map_while(|piece| match piece {
            CallPiece::Marker(name) => Some(name.to_owned()),
            CallPiece::Literal(text) => Some(text),
            _ => None,
        });
        fixed.collect()
    }

    /// `open call (between call)* close`
    fn expression(&self, fidelities: &[SchemaFidelity], lark: &mut Lark<'_>) -> Result<String, GrammarError> {
        let frame = self.format.frame();
        let mut calls = Vec::new();
        for ((index, tool), &fidelity) in self.tools.iter().zip(fidelities) {
            let call = lark.call(self.format, tool, fidelity);
            calls.push(call.map_err(|error| GrammarError { place: Place::Tool(*index), problem: error.to_string() })?);
        }
        let call = lark.rule(&calls.join(" | "));
        let mut parts = vec![call.clone()];
        let mut sequence = |pieces: &[CallPiece]| lark.sequence(pieces).map_err(GrammarError::from);
        if self.several && frame.several {
            let between = sequence(&frame.between)?;
            parts.push(format!("({between} {call})*"));
        }
        parts.insert(0, sequence(&frame.open)?);
        parts.push(sequence(&frame.close)?);
        Ok(lark.rule(&parts.join(" ")))
    }

    fn first_fidelities(&self) -> Vec<SchemaFidelity> {
        self.tools.iter().map(|(_, tool)| if tool.strict { SchemaFidelity::Exact } else { SchemaFidelity::Wider }).collect()
    }

    /// Some schema does not compile: finds which, and lowers it as far as is needed. Errors: its tool is a strict one.
    fn lower(&self, fidelities: &mut [SchemaFidelity], vocabulary: &Arc<Vocabulary>) -> Result<(), GrammarError> {
        for ((index, tool), fidelity) in self.tools.iter().zip(fidelities) {
            let alone = CallRules { format: self.format, tools: vec![(*index, *tool)], several: false };
            loop {
                let mut lark = Lark::new(vocabulary);
                let problem = match alone.expression(&[*fidelity], &mut lark) {
                    Ok(start) => match Compiled::new(vocabulary.clone(), lark.finish(&start)) {
                        Ok(_) => break,
                        Err(problem) => short(&problem),
                    },
                    Err(error) => error.problem,
                };
                *fidelity = match fidelity {
                    SchemaFidelity::Exact | SchemaFidelity::Anything => return Err(GrammarError { place: Place::Tool(*index), problem }),
                    SchemaFidelity::Wider => SchemaFidelity::WithoutPatterns,
                    SchemaFidelity::WithoutPatterns => SchemaFidelity::Anything,
                };
                tracing::debug!("the schema of a tool is held as {fidelity:?}: {problem}");
            }
        }
        Ok(())
    }
}

fn thinking(close: &str, then: usize, may_end: bool, vocabulary: &Vocabulary) -> Stage {
    Stage::Free(Free { marks: vec![Mark::new(&[close.to_owned()], false, Then::EndsFor(then), vocabulary)], may_end })
}

fn forbidden(openings: &[&str], vocabulary: &Vocabulary) -> Vec<Mark> {
    let mark = |opening: &&str| Mark::new(&[(*opening).to_owned()], false, Then::Forbidden, vocabulary);
    // One stays free for thinking, one for the calls.
    openings.iter().take(MARKS_MAX - 2).map(mark).collect()
}
