//! The front door: its decisions, its relay, and what becomes of every fault.

mod breaker;
mod breaker_simulation;
mod classify;
mod limits;
mod sessions;
