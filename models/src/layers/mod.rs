//! The pieces families are built of, over the ragged batch: `[T, width]` f32 rows, whatever sequences they belong to.

pub mod decoder;

pub mod attention;
pub mod feed_forward;
pub mod mixture_of_experts;
pub mod norm;
pub mod output;

pub mod loader;
