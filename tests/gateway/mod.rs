//! The front door: its decisions, its relay, and what becomes of every fault.

mod breaker;
mod breaker_simulation;
mod classify;
mod fault_plans;
mod fault_upstream;
mod history;
mod journal;
mod limits;
mod relay;
mod replies;
mod report;
pub mod schema_check;
pub mod seam;
pub mod seam_streams;
pub mod seam_tokens;
mod sessions;
mod sse_splitter;
mod takeover;
mod tap;
mod verdicts;
