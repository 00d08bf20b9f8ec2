//! The one integration binary: a module a subject.

mod support;

mod api;
mod batching;
mod chat;
mod cli;
mod constraints;
mod disk_cache;
mod draft_model;
mod engine;
mod gateway;
mod grammar;
mod hub;
mod layers;
mod prompt_scores;
mod run_client;
mod scripted;
mod simulation;
mod tidy;
