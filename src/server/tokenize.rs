//! `POST /tokenize`, `/detokenize` and `/apply-template`, `GET /tokenizer_info`: the prompt as the model would see it, without an answer.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::generate::read_aside;
use super::status::check_model;
use super::{AppState, Served, body};
use crate::api::errors::{ApiError, prepare_error};
use crate::api::tokenize as api;
use crate::chat::Prompt;

pub async fn tokenize(State(state): State<AppState>, request: Request) -> Response {
    answer(&state, request, |state, served, body| {
        let call = api::parse_tokenize(body)?;
        check_model(state, call.model.as_deref(), &served.card.id)?;
        let tokenizer = &served.text.tokenizer;
        let ids = match &call.prompt {
            Prompt::Text(text) if call.add_special => tokenizer.encode_with_specials(text, call.parse_special).map_err(Into::into),
            Prompt::Text(text) => tokenizer.encode(text, call.parse_special).map_err(Into::into),
            prompt => served.text.tokens(prompt, state.now_unix_s()),
        };
        let ids = ids.map_err(|error| prepare_error(error, "prompt"))?;
        let tokens: Vec<(u32, Vec<u8>)> = ids.into_iter().map(|id| (id, tokenizer.token_bytes(id, true).to_vec())).collect();
        Ok(api::tokenize_reply(&call, &tokens, served.card.context_tokens_max))
    })
    .await
}

pub async fn detokenize(State(state): State<AppState>, request: Request) -> Response {
    answer(&state, request, |state, served, body| {
        let (ids, model) = api::parse_detokenize(body)?;
        check_model(state, model.as_deref(), &served.card.id)?;
        let tokenizer = &served.text.tokenizer;
        let vocab = tokenizer.vocab_size();
        if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
            let message = format!("`tokens[{index}]` is {id}, but the vocabulary has {vocab} tokens");
            return Err(ApiError::invalid(format!("tokens[{index}]"), message));
        }
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id, true)).copied().collect();
        Ok(api::detokenize_reply(&String::from_utf8_lossy(&bytes)))
    })
    .await
}

pub async fn apply_template(State(state): State<AppState>, request: Request) -> Response {
    answer(&state, request, |state, served, body| {
        let (conversation, model) = api::parse_apply_template(body)?;
        check_model(state, model.as_deref(), &served.card.id)?;
        let prompt = served.text.rendered(&conversation, state.now_unix_s()).map_err(|error| prepare_error(error, "messages"))?;
        Ok(api::apply_template_reply(&prompt))
    })
    .await
}

pub async fn tokenizer_info(State(state): State<AppState>) -> Response {
    let served = match state.served() {
        Ok(served) => served,
        Err(error) => return error.into_response(),
    };
    let tokenizer = &served.text.tokenizer;
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token_name(id));
    let (bos, eos, template) = (name(tokenizer.bos()), name(tokenizer.eos()), served.text.template.source());
    Json(api::tokenizer_info_reply(bos, eos, template, served.card.context_tokens_max)).into_response()
}

async fn answer(
    state: &AppState,
    request: Request,
    work: impl FnOnce(&AppState, &Served, &[u8]) -> Result<Value, ApiError> + Send + 'static,
) -> Response {
    let (parts, body) = request.into_parts();
    let reply = async {
        let body = body::read(&parts.headers, body, state.config(), state.bodies()).await?;
        read_aside(state, body, |state, body| work(state, state.served()?, body)).await
    };
    match reply.await {
        Ok(reply) => Json(reply).into_response(),
        Err(error) => error.into_response(),
    }
}
