//! `POST /v1/embeddings` and `/v1/rerank`: texts become tokens here, vectors on the embedding model's own thread.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use models::embedding::{EmbeddingError, Gives, Sequence};
use tracing::Instrument;

use super::generate::read_aside;
use super::request_id::{RequestId, random_name};
use super::request_log::{Outcome, RequestLog};
use super::status::check_model;
use super::{AppState, Phase, Served, body};
use crate::api::errors::{ApiError, ErrorKind};
use crate::api::openai_embeddings::{self, EmbeddingsCall, Input, Length};
use crate::api::rerank::{self, Relevance, RerankCall};
use crate::chat::Usage;
use crate::embedding::{About, EmbedError, Embeddings, REQUEST_TOKENS_MAX, cosine, normalised, probability};

/// `POST /v1/embeddings`.
pub async fn embeddings(State(state): State<AppState>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    let log = RequestLog::new(id.0, "openai-embeddings");
    answer(log, async move |log: &mut RequestLog| {
        let (call, sequences) = read(&state, request, |state, body| {
            let call = openai_embeddings::parse(body)?;
            let about = embedding_model(state.served()?)?.about();
            check_model(state, call.model.as_deref(), &about.id)?;
            let sequences = sequences_of_inputs(about, &call)?;
            Ok((call, sequences))
        })
        .await?;
        let embeddings = embedding_model(state.served()?)?;
        let vectors = embed(&state, embeddings, sequences, log).await?;
        let vectors: Vec<Vec<f32>> = vectors.into_iter().map(|vector| normalised(vector, call.dimensions)).collect();
        let json = openai_embeddings::reply(&embeddings.about().id, &vectors, call.encoding, log.usage.prompt_tokens);
        Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(json)).into_response())
    })
    .await
}

/// `POST /v1/rerank`: by a cross-encoder where one is loaded, else by the cosine of query and document.
pub async fn rerank(State(state): State<AppState>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    let log = RequestLog::new(id.0, "rerank");
    answer(log, async move |log: &mut RequestLog| {
        let (call, sequences) = read(&state, request, |state, body| {
            let call = rerank::parse(body)?;
            let about = loaded(state.served()?)?.about();
            check_model(state, call.model.as_deref(), &about.id)?;
            let sequences = sequences_of_documents(about, &call)?;
            Ok((call, sequences))
        })
        .await?;
        let embeddings = loaded(state.served()?)?;
        let vectors = embed(&state, embeddings, sequences, log).await?;
        let scores = match embeddings.about().gives {
            Gives::Relevance => vectors.iter().map(|logit| probability(logit[0])).collect(),
            Gives::Embedding => cosines(vectors),
        };
        let relevances = scores.into_iter().enumerate().map(|(index, score)| Relevance { index, score }).collect();
        let reply = rerank::reply(&call, &random_name(), &embeddings.about().id, relevances, log.usage.prompt_tokens);
        Ok(Json(reply).into_response())
    })
    .await
}

/// Of the first with each of the others.
fn cosines(vectors: Vec<Vec<f32>>) -> Vec<f64> {
    let mut vectors = vectors.into_iter().map(|vector| normalised(vector, None));
    let query = vectors.next().unwrap_or_default();
    vectors.map(|document| cosine(&query, &document)).collect()
}

/// Runs `work` in the request's span, and notes how it went.
async fn answer(mut log: RequestLog, work: impl AsyncFnOnce(&mut RequestLog) -> Result<Response, ApiError>) -> Response {
    let span = log.span.clone();
    match work(&mut log).instrument(span).await {
        Ok(response) => {
            log.outcome = Outcome::Completed;
            response
        }
        Err(error) => {
            log.outcome = Outcome::of(&error);
            error.into_response()
        }
    }
}

async fn read<T: Send + 'static>(
    state: &AppState,
    request: Request,
    read: impl FnOnce(&AppState, &[u8]) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, state.config(), state.bodies()).await?;
    if state.phase() != Phase::Serving {
        return Err(ApiError::draining());
    }
    read_aside(state, body, read).await
}

/// Errors: nothing that is loaded gives embeddings.
fn loaded(served: &Served) -> Result<&Embeddings, ApiError> {
    served.embeddings.as_ref().ok_or_else(|| {
        let message = "this server's model gives no embeddings; start it with --embedding-model to have some";
        ApiError::invalid("model", message).with_code("no_embeddings")
    })
}

/// [`loaded`], for vectors. Errors: as there, and it only compares texts.
fn embedding_model(served: &Served) -> Result<&Embeddings, ApiError> {
    let embeddings = loaded(served)?;
    match embeddings.about().gives {
        Gives::Embedding => Ok(embeddings),
        Gives::Relevance => {
            let message = format!("{} is a cross-encoder: it ranks documents (/v1/rerank) and gives no embeddings", embeddings.about().id);
            Err(ApiError::invalid("model", message).with_code("no_embeddings"))
        }
    }
}

fn sequences_of_inputs(about: &About, call: &EmbeddingsCall) -> Result<Vec<Sequence>, ApiError> {
    if let Some(dimensions) = call.dimensions.filter(|dimensions| *dimensions > about.width) {
        let message = format!("`dimensions` must be between 1 and {}, which is what this model gives, not {dimensions}", about.width);
        return Err(ApiError::invalid("dimensions", message));
    }
    let mut budget = TokenBudget::new(about, call.length, "input");
    let place = |index: usize| if call.inputs.len() == 1 { "input".to_owned() } else { format!("input[{index}]") };
    let sequence = |(index, input): (usize, &Input)| match input {
        Input::Text(text) => budget.take(encoded(about.text.encode(text))?, || place(index)),
        Input::Tokens(ids) => match ids.iter().find(|id| **id as usize >= about.vocab) {
            Some(id) => {
                let message = format!("`{}` holds token {id}, but the vocabulary has {} tokens", place(index), about.vocab);
                Err(ApiError::invalid(place(index), message))
            }
            None => budget.take(Sequence::single(ids.clone()), || place(index)),
        },
    };
    call.inputs.iter().enumerate().map(sequence).collect()
}

/// Pairs for a cross-encoder; for an embedding model the query, then the documents.
fn sequences_of_documents(about: &About, call: &RerankCall) -> Result<Vec<Sequence>, ApiError> {
    let mut budget = TokenBudget::new(about, call.length, "documents");
    let place = |index: usize| format!("documents[{index}]");
    let mut sequences = Vec::with_capacity(call.documents.len() + 1);
    if about.gives == Gives::Embedding {
        sequences.push(budget.take(encoded(about.text.encode(&call.query))?, || "query".to_owned())?);
    }
    for (index, document) in call.documents.iter().enumerate() {
        let sequence = match about.gives {
            Gives::Relevance => about.text.encode_pair(&call.query, document),
            Gives::Embedding => about.text.encode(document),
        };
        sequences.push(budget.take(encoded(sequence)?, || place(index))?);
    }
    Ok(sequences)
}

fn encoded(sequence: Result<Sequence, EmbeddingError>) -> Result<Sequence, ApiError> {
    sequence.map_err(|error| ApiError::new(ErrorKind::InvalidRequest, error.to_string()))
}

/// Sees to it that no text is too long, and not all of them together.
struct TokenBudget<'a> {
    about: &'a About,
    length: Length,
    field: &'static str,
    tokens: usize,
}

impl<'a> TokenBudget<'a> {
    fn new(about: &'a About, length: Length, field: &'static str) -> Self {
        Self { about, length, field, tokens: 0 }
    }

    fn take(&mut self, sequence: Sequence, place: impl Fn() -> String) -> Result<Sequence, ApiError> {
        let tokens_max = self.about.tokens_max;
        let sequence = match self.length {
            Length::Whole => sequence,
            Length::CutTo(tokens) => self.about.text.cut(sequence, tokens.min(tokens_max)),
        };
        let tokens = sequence.ids.len();
        if tokens == 0 {
            return Err(ApiError::invalid(place(), format!("`{}` is empty: this model has no tokens for it", place())));
        }
        if tokens > tokens_max {
            let message = format!(
                "`{}` is too long: {tokens} tokens > {tokens_max} maximum; send `truncate_prompt_tokens: -1` to have it cut",
                place()
            );
            return Err(ApiError::invalid(place(), message).with_code("context_length_exceeded"));
        }
        self.tokens += tokens;
        if self.tokens > REQUEST_TOKENS_MAX {
            let message = format!("`{}` holds more than {REQUEST_TOKENS_MAX} tokens in all; send it in several requests", self.field);
            return Err(ApiError::invalid(self.field, message));
        }
        Ok(sequence)
    }
}

async fn embed(
    state: &AppState,
    embeddings: &Embeddings,
    sequences: Vec<Sequence>,
    log: &mut RequestLog,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let prompt_tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
    log.usage = Usage { prompt_tokens, ..Usage::default() };
    let outputs = tokio::select! {
        outputs = embeddings.embed(sequences) => outputs,
        () = state.reached(Phase::CutOff) => return Err(ApiError::draining()),
    };
    outputs.map_err(|error| match error {
        EmbedError::Busy => ApiError::new(ErrorKind::Unavailable, format!("the server is busy: {error}; try again in 2 s"))
            .with_code("server_busy")
            .with_retry_after_s(2),
        EmbedError::Stopped => ApiError::engine_stopped(),
        EmbedError::Failed(message) => ApiError::engine_failed(&message),
    })
}
