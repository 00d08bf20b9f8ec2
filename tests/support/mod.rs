//! What several test modules lean on.

pub mod any_stream;
pub mod built_in;
pub mod chat_stream;
pub mod completion_stream;
pub mod constraints;
pub mod exposition;
pub mod fake_embedder;
pub mod fake_groups;
pub mod fake_hub;
pub mod fake_model;
pub mod front_door;
pub mod http_client;
pub mod infill_stream;
pub mod memory_store;
pub mod messages_stream;
pub mod openai_stream;
pub mod program;
pub mod random;
pub mod requests;
pub mod response_stream;
pub mod temp_dir;
pub mod test_app;
pub mod tiny_tokenizer;
pub mod tool_schemas;
