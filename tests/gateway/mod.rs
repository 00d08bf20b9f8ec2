//! The front door: its decisions, its relay, and what becomes of every fault.

pub mod schema_check;
pub mod seam;
pub mod seam_streams;
pub mod seam_tokens;
