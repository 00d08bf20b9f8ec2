//! Understudy: a local inference server that takes over when the cloud model is down.
//! Data flows one way: server, api, chat, engine, models, kernels; events come back in one channel.

pub mod api;
pub mod chat;
pub mod cli;
pub mod config;
pub mod embedding;
pub mod engine;
pub mod gateway;
pub mod hub;
pub mod scripted;
pub mod server;
