//! The front door: its decisions, its relay, and what becomes of every fault.

mod fault_upstream;
mod relay;
mod sse_splitter;
