//! What tests share.

pub mod fake_hub;
pub mod temp_dir;
