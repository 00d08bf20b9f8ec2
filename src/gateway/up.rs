//! A request as one upstream gets it: its path, its headers, and a body without what is this machine's own.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::Full;

use super::circuit_breaker::{CredentialId, Target};
use super::door::{Asked, Tier, Wanted};
use super::forwarding;
use super::passage::Passage;
use super::protocol::Protocol;
use crate::config::gateway::{self as config, Credential, Kind, OpenAiApi};

/// Of the API that we write requests for.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// In which protocol requests are written for an upstream, and where they go.
pub fn spoken(config: &config::Upstream) -> (Protocol, &'static str) {
    match (config.kind, config.api) {
        (Kind::Anthropic, _) => (Protocol::AnthropicMessages, "/v1/messages"),
        (Kind::Openai, OpenAiApi::Chat) => (Protocol::OpenAiChat, "/v1/chat/completions"),
        (Kind::Openai, OpenAiApi::Responses) => (Protocol::OpenAiResponses, "/v1/responses"),
    }
}

/// A request as one upstream gets it.
pub struct Up {
    pub protocol: Protocol,
    /// In another protocol than was asked.
    pub translated: Option<Protocol>,
    path: String,
    body: Bytes,
    model: Arc<str>,
}

impl Up {
    /// `None`: this upstream is not asked.
    pub fn of(tier: &Tier, asked: &Asked<'_>) -> Option<Self> {
        let config = &tier.config;
        if !config.takes(&asked.about.model) {
            return None;
        }
        let model = config.model.as_deref().unwrap_or(&asked.about.model);
        let speaks = match asked.protocol {
            Protocol::AnthropicMessages => Kind::Anthropic,
            _ => Kind::Openai,
        };
        // A chat is no response, though both are OpenAI's.
        let is_written_anew = config.api == OpenAiApi::Responses && asked.protocol == Protocol::OpenAiChat;
        if speaks == config.kind && !is_written_anew {
            let body = match &config.model {
                Some(model) => asked.about.with_model(&asked.body, model),
                None => asked.body.clone(),
            };
            return Some(Self {
                protocol: asked.protocol,
                translated: None,
                path: asked.path_and_query.to_owned(),
                body,
                model: model.into(),
            });
        }
        Self::anew(tier, asked)
    }

    /// The request as it is written anew, also where the upstream speaks the client's protocol.
    pub fn anew(tier: &Tier, asked: &Asked<'_>) -> Option<Self> {
        let config = &tier.config;
        if !config.takes(&asked.about.model) {
            return None;
        }
        let model = config.model.as_deref().unwrap_or(&asked.about.model);
        let (protocol, path) = spoken(config);
        let body = (asked.translate)(Wanted { protocol, model, cache_marks: config.cache_marks })?;
        Some(Self { protocol, translated: Some(protocol), path: path.to_owned(), body, model: model.into() })
    }

    pub fn target(&self, tier: &Tier, asked: &Asked<'_>) -> Target {
        let credential = match tier.config.key {
            Credential::OfClient => Some(CredentialId(forwarding::credential_of(asked.headers))),
            // There is only one, and its upstream's name says which.
            Credential::Own(_) => None,
        };
        Target { host: tier.host.clone(), upstream: tier.name.clone(), model: self.model.clone(), credential }
    }

    pub fn request(&self, passage: &Passage, asked: &Asked<'_>) -> http::Request<Full<Bytes>> {
        let tier = &passage.tier;
        let body = match self.translated {
            None => passage.gateway.without_local_words(self.protocol, &self.body, passage.index),
            Some(_) => self.body.clone(),
        };
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = asked.method.clone();
        let path = format!("{}{}", tier.config.base_path, self.path);
        // A path that came in as one goes out as one.
        *request.uri_mut() = path.parse().unwrap_or_else(|_| http::Uri::from_static("/"));
        *request.headers_mut() = forwarding::upwards(asked.headers, tier.config.kind, &tier.config.key);
        if self.translated == Some(Protocol::AnthropicMessages) {
            // Its API demands it, and clients of another one do not send it.
            request.headers_mut().entry("anthropic-version").or_insert(HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        if let Ok(host) = tier.connections.origin().authority().parse() {
            request.headers_mut().insert(http::header::HOST, host);
        }
        request
    }
}
