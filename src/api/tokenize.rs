//! `POST /tokenize`, `/detokenize` and `/apply-template`, `GET /tokenizer_info`: what the model makes of a text, under the names of vLLM's and of llama.cpp's server.

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::fields::{Fields, parse_object};
use super::openai_chat::read_conversation;
use crate::chat::{Conversation, Prompt};

/// `/tokenize` as read.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeCall {
    pub prompt: Prompt,
    /// With bos and eos, where the model wants them; of a text alone: a template writes its own.
    pub add_special: bool,
    /// Names of control tokens in a text are those tokens.
    pub parse_special: bool,
    pieces: Pieces,
    pub model: Option<String>,
}

/// What is told of a token beside its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    None,
    /// llama.cpp's `with_pieces`.
    WithEach,
    /// vLLM's `return_token_strs`.
    Apart,
}

/// vLLM's `prompt` has bos and eos unless it is said otherwise, llama.cpp's `content` has none; `messages` go through the template.
pub fn parse_tokenize(body: &[u8]) -> Result<TokenizeCall, ApiError> {
    let body = parse_object(body)?;
    let fields = Fields::of_body(&body);
    let add_special = match fields.boolean("add_special_tokens")? {
        Some(add) => Some(add),
        None => fields.boolean("add_special")?,
    };
    let (prompt, add_special_by_default) = match (fields.get("messages"), fields.string("prompt")?, fields.string("content")?) {
        (Some(_), _, _) => (Prompt::Conversation(read_to_render(&fields)?), false),
        (None, Some(text), _) => (Prompt::Text(text.to_owned()), true),
        (None, None, Some(text)) => (Prompt::Text(text.to_owned()), false),
        (None, None, None) => return Err(fields.error("prompt", "is required, or `content`, or `messages`")),
    };
    let with_each = fields.boolean("with_pieces")?.unwrap_or(false);
    let apart = fields.boolean("return_token_strs")?.unwrap_or(false);
    Ok(TokenizeCall {
        prompt,
        add_special: add_special.unwrap_or(add_special_by_default),
        parse_special: fields.boolean("parse_special")?.unwrap_or(true),
        pieces: if with_each {
            Pieces::WithEach
        } else if apart {
            Pieces::Apart
        } else {
            Pieces::None
        },
        model: fields.string("model")?.map(str::to_owned),
    })
}

/// Each token comes with the bytes it stands for.
pub fn tokenize_reply(call: &TokenizeCall, tokens: &[(u32, Vec<u8>)], context_tokens_max: usize) -> Value {
    let ids = || tokens.iter().map(|(id, _)| Value::from(*id)).collect::<Vec<_>>();
    let mut reply = Map::new();
    reply.insert("count".into(), tokens.len().into());
    reply.insert("max_model_len".into(), context_tokens_max.into());
    let listed = match call.pieces {
        // llama.cpp: what is no text by itself is told as its bytes.
        Pieces::WithEach => {
            let piece = |bytes: &[u8]| std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), Value::from);
            tokens.iter().map(|(id, bytes)| json!({"id": id, "piece": piece(bytes)})).collect()
        }
        Pieces::None | Pieces::Apart => ids(),
    };
    reply.insert("tokens".into(), listed.into());
    let strings = match call.pieces {
        Pieces::Apart => tokens.iter().map(|(_, bytes)| Value::from(String::from_utf8_lossy(bytes))).collect(),
        Pieces::None | Pieces::WithEach => Value::Null,
    };
    reply.insert("token_strs".into(), strings);
    Value::Object(reply)
}

/// Token ids of `/detokenize`, and the model asked for.
pub fn parse_detokenize(body: &[u8]) -> Result<(Vec<u32>, Option<String>), ApiError> {
    let body = parse_object(body)?;
    let fields = Fields::of_body(&body);
    fields.require("tokens")?;
    let items = fields.array("tokens")?.unwrap_or_default();
    Ok((fields.token_ids("tokens", items)?, fields.string("model")?.map(str::to_owned)))
}

/// Under both servers' names.
pub fn detokenize_reply(text: &str) -> Value {
    json!({"prompt": text, "content": text})
}

/// vLLM's `/tokenizer_info`, in the words of Hugging Face's `tokenizer_config.json`, as far as programs ask for it that tokenize by this server.
/// `bos`, `eos`: names of tokens.
pub fn tokenizer_info_reply(bos: Option<&str>, eos: Option<&str>, chat_template: &str, context_tokens_max: usize) -> Value {
    json!({"bos_token": bos, "eos_token": eos, "chat_template": chat_template, "model_max_length": context_tokens_max})
}

/// The conversation of `/apply-template`, and the model asked for.
pub fn parse_apply_template(body: &[u8]) -> Result<(Conversation, Option<String>), ApiError> {
    let body = parse_object(body)?;
    let fields = Fields::of_body(&body);
    Ok((read_to_render(&fields)?, fields.string("model")?.map(str::to_owned)))
}

pub fn apply_template_reply(prompt: &str) -> Value {
    json!({"prompt": prompt})
}

/// As chat reads it, but that the assistant's turn may be left closed, which is a variable of the template's.
fn read_to_render(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    let mut conversation = read_conversation(fields)?;
    if let Some(opened) = fields.boolean("add_generation_prompt")? {
        conversation.template_variables.insert("add_generation_prompt".into(), opened.into());
    }
    Ok(conversation)
}
