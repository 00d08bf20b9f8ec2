//! The front door: its decisions, its relay, and what becomes of every fault.

mod breaker;
mod breaker_simulation;
mod fault_upstream;
mod relay;
mod replies;
pub mod seam;
pub mod seam_tokens;
mod sessions;
mod sse_splitter;
mod takeover;
mod tap;
