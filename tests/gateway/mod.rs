//! The front door: its decisions, its relay, and what becomes of every fault.

mod fault_upstream;
mod journal;
mod report;
mod sse_splitter;
