//! What several test modules lean on.

pub mod fake_hub;
pub mod fake_model;
pub mod temp_dir;
