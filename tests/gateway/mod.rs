//! The front door: its decisions, its relay, and what becomes of every fault.

mod sse_splitter;
mod replies;
mod takeover;
mod tap;
mod history;
