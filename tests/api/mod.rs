//! The API from outside: the real router, engine, tokenizer and template; a fake model; raw sockets.

mod bad_input;
mod chat;
mod chat_tools;
mod completions;
mod edge;
mod embeddings;
mod infill;
mod lifecycle;
mod messages;
mod messages_bad_input;
mod messages_events;
mod messages_reading;
mod metrics;
mod openapi;
mod outgoing;
mod outgoing_both_ways;
mod outgoing_continuing;
mod outgoing_replies;
mod responses;
mod responses_kept;
mod responses_requests;
mod sampling;
mod sent_again;
mod strict_readers;
mod templates;
mod tokenize;
