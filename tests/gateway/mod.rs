//! The front door: its decisions, its relay, and what becomes of every fault.

pub mod seam;
pub mod seam_tokens;
