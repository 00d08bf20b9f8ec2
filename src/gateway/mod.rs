//! The front door: upstreams first, the local model when they fail, and back.
//!
//! The decisions are pure (time is an argument); `relay` and `upstream` are the thin shell that carries bytes.

pub mod fault;
pub mod local_token;
