//! What can go wrong with a request, once for all dialects, and how each API says it.

use std::time::Duration;

use models::TokenizerError;
use serde_json::{Value, json};

use super::Dialect;
use super::fields::quoted;
use crate::chat::grammar::{GrammarError, Place};
use crate::chat::prepare::PrepareError;
use crate::engine::AdmissionError;

/// An error for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub kind: ErrorKind,
    pub message: String,
    /// The field it is about: `messages[2].content`.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    pub retry_after_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Timeout,
    TooLarge,
    UnsupportedEncoding,
    /// Try again later: starting, draining, or too busy.
    Unavailable,
    Internal,
}

impl ErrorKind {
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::TooLarge => 413,
            Self::UnsupportedEncoding => 415,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }
}

impl ApiError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, code: None, retry_after_s: None }
    }

    /// A field that is not as it must be.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(ErrorKind::InvalidRequest, message) }
    }

    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub fn with_retry_after_s(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The model failed while it answered.
    pub fn engine_failed(message: &str) -> Self {
        Self::new(ErrorKind::Internal, format!("the model failed: {message}"))
    }

    /// The engine's thread is gone: a bug of ours, which only a restart mends.
    pub fn engine_stopped() -> Self {
        Self::new(ErrorKind::Unavailable, "the engine has stopped; the server has to be started anew").with_code("engine_stopped")
    }

    /// The code of [`Self::cancelled`].
    pub const CANCELLED: &'static str = "response_cancelled";

    /// Somebody has told this reply to stop, on another connection.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::InvalidRequest, "the response was cancelled").with_code(Self::CANCELLED)
    }

    pub fn loading() -> Self {
        Self::new(ErrorKind::Unavailable, "the model is still loading").with_code("model_loading").with_retry_after_s(2)
    }

    pub fn draining() -> Self {
        Self::new(ErrorKind::Unavailable, "the server is shutting down").with_code("shutting_down").with_retry_after_s(10)
    }

    /// Asked whether a first token would come within `max`.
    pub fn too_long_to_wait(predicted: Duration, max: Duration) -> Self {
        let retry_after_s = (predicted - max).as_secs_f64().ceil().clamp(1.0, 300.0) as u64;
        let message = format!("a first token would come after about {} ms", predicted.as_millis());
        Self::new(ErrorKind::Unavailable, message).with_code("server_busy").with_retry_after_s(retry_after_s)
    }

    /// `--strict-model` and another name.
    pub fn model_not_found(asked: &str, served: &str) -> Self {
        let message = format!("the model {} is not served here; this server serves {served:?}", quoted(asked));
        Self { param: Some("model".into()), ..Self::new(ErrorKind::NotFound, message) }.with_code("model_not_found")
    }
}

/// The engine did not take a request. `prompt_field`: where the dialect keeps the prompt.
pub fn admission_error(error: AdmissionError, prompt_field: &str) -> ApiError {
    let message = error.to_string();
    match error {
        AdmissionError::EmptyPrompt | AdmissionError::UnknownToken { .. } => ApiError::invalid(prompt_field, message),
        AdmissionError::PromptTooLong { .. } => ApiError::invalid(prompt_field, message).with_code("context_length_exceeded"),
        AdmissionError::QueueFull { retry_after_s, .. } | AdmissionError::TooLongToWait { retry_after_s, .. } => {
            let message = format!("the server is busy: {message}; try again in {retry_after_s} s");
            ApiError::new(ErrorKind::Unavailable, message).with_code("server_busy").with_retry_after_s(retry_after_s)
        }
        AdmissionError::Draining => ApiError::draining(),
        AdmissionError::Stopped => ApiError::engine_stopped(),
    }
}

/// [`prepare_error`], in the words of a dialect.
pub fn prepare_error_of<D: Dialect>(error: PrepareError) -> ApiError {
    match error {
        PrepareError::Grammar(error) => grammar_error(&error, D::OUTPUT_FORMAT_FIELD, D::TOOL_SCHEMA_FIELD),
        error => prepare_error(error, D::PROMPT_FIELD),
    }
}

/// What the request wants of its output cannot be held. `schema_field`: within a tool.
fn grammar_error(error: &GrammarError, format_field: &str, schema_field: &str) -> ApiError {
    let param = match error.place {
        Place::OutputFormat => format_field.to_owned(),
        Place::Tool(index) => format!("tools[{index}].{schema_field}"),
    };
    let message = format!("`{param}` cannot be held: {error}");
    ApiError::invalid(param, message).with_code("unsupported_schema")
}

/// The request could not be made into tokens.
pub fn prepare_error(error: PrepareError, prompt_field: &str) -> ApiError {
    let message = error.to_string();
    match error {
        PrepareError::Template(_) => ApiError::invalid(prompt_field, message).with_code("chat_template_error"),
        PrepareError::NoFillInTheMiddle => {
            // Completions have a field of their own for what needs it.
            let field = if prompt_field == "prompt" { "suffix" } else { prompt_field };
            ApiError::invalid(field, message)
        }
        PrepareError::BiasOfUnknownToken { .. } => ApiError::invalid("logit_bias", message),
        PrepareError::StopAtUnknownToken { .. } => ApiError::invalid("stop_token_ids", message),
        PrepareError::Grammar(error) => grammar_error(&error, "response_format", "function.parameters"),
        PrepareError::BegunIsNotOneReply | PrepareError::BegunCallsUnknownTool(_) | PrepareError::BegunArgumentsAreNoJson { .. } => {
            ApiError::new(ErrorKind::Internal, message)
        }
        PrepareError::CannotForceCalls => ApiError::invalid("tool_choice", message),
        PrepareError::Admission(error) => admission_error(error, prompt_field),
        // A vocabulary without all bytes, and a text that needs one of them.
        PrepareError::Tokenizer(error) if matches!(*error, TokenizerError::NoByteToken(_)) => ApiError::invalid(prompt_field, message),
        PrepareError::Tokenizer(_) => ApiError::new(ErrorKind::Internal, message),
    }
}

/// Whose errors a client expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    OpenAi,
    Anthropic,
}

impl ErrorShape {
    /// The body of an error reply.
    pub fn body(self, error: &ApiError, request_id: &str) -> Value {
        match self {
            Self::OpenAi => openai_error(error),
            Self::Anthropic => {
                let mut body = anthropic_error(error);
                body["request_id"] = request_id.into();
                body
            }
        }
    }
}

/// `{"type": "error", "error": {...}}` as Anthropic's API and its SDKs have it. The field an error is about stands in its message.
pub fn anthropic_error(error: &ApiError) -> Value {
    let kind = match error.kind {
        ErrorKind::InvalidRequest | ErrorKind::MethodNotAllowed | ErrorKind::UnsupportedEncoding | ErrorKind::Timeout => {
            "invalid_request_error"
        }
        ErrorKind::NotFound => "not_found_error",
        ErrorKind::TooLarge => "request_too_large",
        ErrorKind::Unauthorized => "authentication_error",
        ErrorKind::Forbidden => "permission_error",
        ErrorKind::Unavailable => "overloaded_error",
        ErrorKind::Internal => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": error.message}})
}

/// `{"error": {...}}` as OpenAI's API and its SDKs have it.
pub fn openai_error(error: &ApiError) -> Value {
    let kind = match error.kind {
        ErrorKind::InvalidRequest
        | ErrorKind::NotFound
        | ErrorKind::MethodNotAllowed
        | ErrorKind::TooLarge
        | ErrorKind::UnsupportedEncoding
        | ErrorKind::Timeout => "invalid_request_error",
        ErrorKind::Unauthorized => "authentication_error",
        ErrorKind::Forbidden => "permission_error",
        ErrorKind::Unavailable | ErrorKind::Internal => "server_error",
    };
    json!({"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}})
}
