//! The API from outside: the real router, engine, tokenizer and template; a fake model; raw sockets.

mod bad_input;
mod chat;
mod chat_tools;
mod completions;
mod edge;
mod infill;
mod lifecycle;
mod metrics;
mod responses;
mod responses_kept;
mod responses_requests;
mod sampling;
mod sent_again;
mod templates;
