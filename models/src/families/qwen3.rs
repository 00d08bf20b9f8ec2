//! Qwen 3 (dense): no biases; each query and key head is normed before it rotates. Also the built-in model.

use kernels::ops::rope::RopeStyle;

use crate::config::FeedForwardKind;
use crate::layers::decoder::DecoderLayout;

pub const LAYOUT: DecoderLayout = DecoderLayout {
    architecture: "qwen3",
    rope_style: RopeStyle::Neox,
    qk_norm: true,
    qkv_bias_required: false,
    feed_forward: FeedForwardKind::Dense,
};
