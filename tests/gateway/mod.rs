//! The front door: its decisions, its relay, and what becomes of every fault.

mod breaker;
mod breaker_simulation;
mod fault_upstream;
mod relay;
mod sessions;
mod sse_splitter;
mod replies;
mod takeover;
mod tap;
