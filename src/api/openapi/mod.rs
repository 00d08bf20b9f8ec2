//! The OpenAPI document (3.1) of all routes, made of the types of requests and replies. What it says of a route is what clients can rely
//! on; fields beyond it are passed over.

pub mod replies;
pub mod requests;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::openai_types::{ChatCompletion, ChatCompletionChunk, Completion};
use replies as reply;
use requests as request;

/// Whose errors a route gives.
#[derive(Clone, Copy)]
enum Errors {
    OpenAi,
    Anthropic,
}

/// The document. `version`: the program's.
pub fn document(version: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut document = Document { generator: settings.into_generator(), paths: Map::new() };
    document.generation();
    document.the_rest();
    let Document { mut generator, paths } = document;
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Understudy",
            "version": version,
            "description": "A local inference server that speaks OpenAI's and Anthropic's APIs, and some of llama.cpp's and vLLM's.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        // Asked for only where the server was started with keys.
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

struct Document {
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Document {
    fn generation(&mut self) {
        use Errors::{Anthropic, OpenAi};
        self.streaming::<request::ChatCompletionRequest, ChatCompletion<'_>, ChatCompletionChunk<'_>>(
            "/v1/chat/completions",
            "Answers a conversation.",
            OpenAi,
        );
        self.streaming::<request::CompletionRequest, Completion<'_>, Completion<'_>>("/v1/completions", "Goes on from a text.", OpenAi);
        self.streaming::<request::ResponsesRequest, reply::Response, reply::AnyObject>("/v1/responses", "Answers a list of items.", OpenAi);
        self.streaming::<request::MessagesRequest, reply::AnthropicMessage, reply::AnthropicEvent>(
            "/v1/messages",
            "Answers a conversation, in Anthropic's words.",
            Anthropic,
        );
        self.streaming::<request::InfillRequest, reply::Infill, reply::Infill>(
            "/infill",
            "Writes what stands between two texts, as llama.cpp's server does.",
            OpenAi,
        );
    }

    fn the_rest(&mut self) {
        use Errors::{Anthropic, OpenAi};
        self.posting::<request::CountTokensRequest, reply::CountedTokens>(
            "/v1/messages/count_tokens",
            "How long a prompt would be.",
            Anthropic,
        );
        self.posting::<request::ResponsesRequest, reply::AnyObject>("/v1/responses/input_tokens", "How long a prompt would be.", OpenAi);
        self.posting::<request::EmbeddingsRequest, reply::Embeddings>("/v1/embeddings", "Vectors of texts.", OpenAi);
        for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
            self.posting::<request::RerankRequest, reply::Ranking>(path, "Texts by how well they answer a question.", OpenAi);
        }
        self.posting::<request::TokenizeRequest, reply::Tokens>("/tokenize", "A text's tokens.", OpenAi);
        self.posting::<request::DetokenizeRequest, reply::AnyObject>("/detokenize", "The text of tokens.", OpenAi);
        self.posting::<request::ApplyTemplateRequest, reply::AnyObject>("/apply-template", "A conversation as the model reads it.", OpenAi);
        self.getting::<reply::AnyObject>("/tokenizer_info", "The tokenizer's control tokens and the chat template.");
        self.getting::<reply::ModelList>("/v1/models", "The loaded model. With the header `anthropic-version`, in Anthropic's words.");
        self.getting::<reply::Model>("/v1/models/{id}", "The loaded model, whatever its name here.");
        self.getting::<reply::Response>("/v1/responses/{id}", "A response that is kept.");
        self.getting::<reply::AnyObject>("/v1/responses/{id}/input_items", "What a response that is kept was an answer to.");
        self.method::<reply::AnyObject>("delete", "/v1/responses/{id}", "Forgets a response.");
        self.method::<reply::Response>("post", "/v1/responses/{id}/cancel", "Ends a response that runs.");
        self.getting::<reply::AnyObject>("/openapi.json", "This document.");
        self.getting::<reply::AnyObject>("/readyz", "Whether a request sent now would be taken.");
        self.getting::<reply::AnyObject>("/health", "The same.");
        self.getting::<reply::AnyObject>("/understudy/status", "Who answers, the cloud or this machine, and how the upstreams are.");
        self.posting::<request::UseRequest, reply::AnyObject>("/understudy/use", "Says whom to ask.", OpenAi);
        for (path, summary) in [("/livez", "Whether the process answers."), ("/metrics", "Numbers for Prometheus."), ("/", "A greeting.")] {
            let text = json!({"200": {"description": "ok", "content": {"text/plain": {"schema": {"type": "string"}}}}});
            self.add(path, "get", json!({"summary": summary, "responses": text}));
        }
    }

    fn streaming<Request: JsonSchema, Whole: JsonSchema, Event: JsonSchema>(&mut self, path: &str, summary: &str, errors: Errors) {
        let event = self.generator.subschema_for::<Event>();
        let content = json!({
            "application/json": {"schema": self.generator.subschema_for::<Whole>()},
            // The schema is that of one event's data.
            "text/event-stream": {"schema": {"type": "string"}, "x-event-schema": event},
        });
        self.post::<Request>(path, summary, content, errors);
    }

    fn posting<Request: JsonSchema, Reply: JsonSchema>(&mut self, path: &str, summary: &str, errors: Errors) {
        let content = json!({"application/json": {"schema": self.generator.subschema_for::<Reply>()}});
        self.post::<Request>(path, summary, content, errors);
    }

    fn post<Request: JsonSchema>(&mut self, path: &str, summary: &str, content: Value, errors: Errors) {
        let request = self.generator.subschema_for::<Request>();
        let operation = json!({
            "summary": summary,
            "requestBody": {"required": true, "content": {"application/json": {"schema": request}}},
            "responses": self.responses(content, errors),
        });
        self.add(path, "post", operation);
    }

    fn getting<Reply: JsonSchema>(&mut self, path: &str, summary: &str) {
        self.method::<Reply>("get", path, summary);
    }

    /// A request without a body.
    fn method<Reply: JsonSchema>(&mut self, method: &str, path: &str, summary: &str) {
        let content = json!({"application/json": {"schema": self.generator.subschema_for::<Reply>()}});
        let mut operation = json!({"summary": summary, "responses": self.responses(content, Errors::OpenAi)});
        if path.contains("{id}") {
            operation["parameters"] = json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
        }
        self.add(path, method, operation);
    }

    fn responses(&mut self, content: Value, errors: Errors) -> Value {
        let error: Schema = match errors {
            Errors::OpenAi => self.generator.subschema_for::<reply::OpenAiError>(),
            Errors::Anthropic => self.generator.subschema_for::<reply::AnthropicError>(),
        };
        let error = |description: &str| json!({"description": description, "content": {"application/json": {"schema": error}}});
        json!({
            "200": {"description": "ok", "content": content},
            "400": error("The request is not as it must be; the error names the field."),
            "401": error("The server was started with keys, and this is none of them."),
            "404": error("There is no such thing here."),
            "413": error("The body is too large."),
            "415": error("The body is compressed in a way that is not read here."),
            "503": error("Loading, draining or full; `Retry-After` says when to come back."),
        })
    }

    fn add(&mut self, path: &str, method: &str, operation: Value) {
        let item = self.paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        item[method] = operation;
    }
}
