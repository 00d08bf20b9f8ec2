//! The one integration-test binary.

mod support;

mod engine;
mod simulation;
