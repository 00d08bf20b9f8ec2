//! Qwen 3 with a mixture of experts in place of each feed-forward layer (Qwen3-30B-A3B and its kin).

use kernels::ops::rope::RopeStyle;

use crate::config::FeedForwardKind;
use crate::layers::decoder::DecoderLayout;

pub const LAYOUT: DecoderLayout = DecoderLayout {
    architecture: "qwen3moe",
    rope_style: RopeStyle::Neox,
    qk_norm: true,
    qkv_bias_required: false,
    feed_forward: FeedForwardKind::Experts,
};
