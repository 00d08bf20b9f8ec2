//! A model whose replies are written in a file: `understudy serve scripted:FILE.toml`. For tests of whole agent loops, ours and other
//! people's, without a clever model. Everything but the model is real: the built-in model's tokenizer and template, the parsers, the
//! scheduler, the cache and the streams.
//!
//! What it says next is a function of the tokens before it and of nothing else: it finds in them what it was asked and how much of its
//! reply stands already. So chunks, the prefix cache, pauses and drafts must not change a word of it, as with any model. And it says it
//! with logits, so that a grammar wins over the script.
//!
//! Invariant: knows no wire format and no HTTP. Only [`runner`] knows the clock: it keeps the pace.

pub mod script;

pub mod closing;
pub mod history;
pub mod json_cursor;
pub mod reply;

pub mod runner;

use models::Tokenizer;

use crate::chat::chat_template::{ChatTemplate, TemplateError};

/// Follows the built-in template, which knows no thinking: a client that wants none gets a prompt that says so, in the way of Qwen3.
const THINKING: &str = "{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking -%}\
{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}";

/// The tokenizer's own template, for a model that may think.
pub fn template(tokenizer: &Tokenizer) -> Result<ChatTemplate, TemplateError> {
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token_name(id)).map(str::to_owned);
    let source = tokenizer.chat_template(None).map(|own| [own, THINKING].concat());
    ChatTemplate::new(source.as_deref(), None, name(tokenizer.bos()), name(tokenizer.eos()))
}
