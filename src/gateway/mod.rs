//! The front door: upstreams first, the local model when they fail, and back.
//!
//! The decisions are pure (time is an argument); `relay` and `upstream` are the thin shell that carries bytes.

pub mod asked;
pub mod attempt;
pub mod auth_outage;
mod chronicle;
pub mod circuit_breaker;
pub mod classify;
pub mod continuation;
pub mod door;
mod door_status;
pub mod drill;
pub mod duty;
pub mod edge_probe;
pub mod fault;
pub mod forwarding;
pub mod headers;
pub mod history;
pub mod hold;
pub mod journal;
pub mod json;
pub mod latency;
pub mod limits;
pub mod local_token;
pub mod lru;
pub mod pace;
pub mod pass;
pub mod passage;
pub mod power;
pub mod protocol;
pub mod reason;
pub mod relayed;
pub mod report;
pub mod retry;
pub mod rules;
pub mod sessions;
pub mod sse_splitter;
pub mod status;
pub mod takeover;
pub mod tap;
mod up;
pub mod upstream;
pub mod wake;
