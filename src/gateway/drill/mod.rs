//! Faults on purpose: an upstream that misbehaves as it is told, for the drill command and for the tests.
//!
//! No HTTP framework: they cannot reset a connection before the headers, leave out the last chunk, or promise more bytes than they send.
//! What is sent is decided by pure code: `plan` chooses an [`answer::Answer`], a dialect file writes its frames, `script` turns
//! them into bytes and pauses. `fault_upstream` only carries the script to the socket and notes what it saw of the client.

pub mod answer;
pub mod plan;

pub mod anthropic;
pub mod openai_chat;
pub mod openai_responses;

pub mod frames;
pub mod script;
mod wire;

mod behind;
pub mod checks;
mod connection;
pub mod fault_upstream;
pub mod http;
pub mod raw_client;

pub mod cases;
pub mod play;
pub mod reading;
pub mod verdict;
