//! The one integration binary: a module a subject.

mod support;

mod api;
mod batching;
mod chat;
mod cli;
mod constraints;
mod disk_cache;
mod engine;
mod gateway;
mod grammar;
mod hub;
mod layers;
mod run_client;
mod scripted;
mod simulation;
mod tidy;
