//! Rotary position embedding (Su et al. 2021) with the optional per-head norm of Qwen3 before it.

use candle_core::{Result, Tensor, bail};

use crate::Step;

/// Which two elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Elements `i` and `i + rotary_dim/2` (qwen2, qwen3).
    Neox,
    /// Elements `2i` and `2i + 1` (llama as converted to GGUF).
    Interleaved,
}

/// Frequencies of the rotation: pair `i` turns by `position * inverse_frequency[i]`, magnitudes times `attention_factor`.
#[derive(Debug, Clone)]
pub struct Rope {
    pub style: RopeStyle,
    /// `rotary_dim / 2` values, already scaled (linear, llama3 factors, yarn).
    pub inverse_frequency: Vec<f32>,
    /// YaRN's magnitude factor; 1 otherwise.
    pub attention_factor: f32,
}

/// Sines and cosines of one step, shared by all layers: `[T, rotary_dim/2]` each.
#[derive(Debug)]
pub struct RopeAngles {
    pub style: RopeStyle,
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rope {
    pub fn angles(&self, _step: &Step, _device: &candle_core::Device) -> Result<RopeAngles> {
        bail!("seam")
    }
}

/// The per-head norm weights of Qwen3, `[head_dim]` each.
#[derive(Debug, Clone, Copy)]
pub struct QkNorm<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub eps: f32,
}

/// Norms (where given) and rotates `q [T, Hq*D]` and `k [T, Hkv*D]` in place.
pub fn qk_norm_rope_(_q: &Tensor, _k: &Tensor, _head_dim: usize, _angles: &RopeAngles, _norm: Option<QkNorm<'_>>) -> Result<()> {
    bail!("seam")
}
