//! Qwen 1.5, 2 and 2.5: Llama with biases on query, key and value, and halves of a head rotating together.

use kernels::ops::rope::RopeStyle;

use crate::config::FeedForwardKind;
use crate::layers::decoder::DecoderLayout;

pub const LAYOUT: DecoderLayout = DecoderLayout {
    architecture: "qwen2",
    rope_style: RopeStyle::Neox,
    qk_norm: false,
    qkv_bias_required: true,
    feed_forward: FeedForwardKind::Dense,
};
