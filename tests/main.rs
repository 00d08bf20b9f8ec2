//! The one integration-test binary.

mod support;

mod api;
mod engine;
mod simulation;
