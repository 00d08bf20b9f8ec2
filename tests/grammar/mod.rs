//! Grammars on the built-in model's own vocabulary: which texts they let through, held against an independent judge of JSON schemas.

pub mod cases;
pub mod driver;
mod generated;
mod json_schema;
mod tool_calls;
