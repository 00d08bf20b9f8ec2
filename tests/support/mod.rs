//! What several test modules lean on.

pub mod fake_model;
