//! Llama 1 to 3, and what is built the same way and says so: Mistral, Devstral, TinyLlama, SmolLM, Yi.
//!
//! The conversion to GGUF reorders the rows of query and key so that neighbours rotate together. Llama 3.1's frequency factors
//! are a tensor, `rope_freqs.weight`. A few derivatives have biases.

use kernels::ops::rope::RopeStyle;

use crate::config::FeedForwardKind;
use crate::layers::decoder::DecoderLayout;

pub const LAYOUT: DecoderLayout = DecoderLayout {
    architecture: "llama",
    rope_style: RopeStyle::Interleaved,
    qk_norm: false,
    qkv_bias_required: false,
    feed_forward: FeedForwardKind::Dense,
};
