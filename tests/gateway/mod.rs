//! The front door: its decisions, its relay, and what becomes of every fault.

mod history;
mod replies;
mod sse_splitter;
mod takeover;
mod tap;
