//! Rotary position embedding (Su et al. 2021) with the optional per-head norm of Qwen3 before it.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, bail};

use super::{chosen_isa, rows_mut, rows_of};
use crate::cpu::rope as cpu;
use crate::profile::{self, Cost, Key, Op, cost};
use crate::{Step, reference::attention as reference};

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
    /// Sines and cosines of every row's position, computed in f64 and rounded once.
    pub fn angles(&self, step: &Step, device: &Device) -> Result<RopeAngles> {
        let _timer = profile::op(|| (Key::of(Op::RopeAngles), Cost::default()));
        let half = self.inverse_frequency.len();
        let factor = f64::from(self.attention_factor);
        let (mut cos, mut sin) = (Vec::with_capacity(step.rows() * half), Vec::with_capacity(step.rows() * half));
        for &position in &step.positions {
            for &frequency in &self.inverse_frequency {
                let (s, c) = (f64::from(position) * f64::from(frequency)).sin_cos();
                cos.push((c * factor) as f32);
                sin.push((s * factor) as f32);
            }
        }
        let shape = (step.rows(), half);
        Ok(RopeAngles { style: self.style, cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }
}

/// The per-head norm weights of Qwen3, `[head_dim]` each.
#[derive(Debug, Clone, Copy)]
pub struct QkNorm<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub eps: f32,
}

/// Norms (where given) and rotates `q [T, Hq*D]` and `k [T, Hkv*D]` in place: per pair `(a cos - b sin, a sin + b cos)`.
///
/// Both contiguous. A rotary width below `head_dim` leaves the rest of each head as it is. Errors on other shapes.
pub fn qk_norm_rope_(q: &Tensor, k: &Tensor, head_dim: usize, angles: &RopeAngles, norm: Option<QkNorm<'_>>) -> Result<()> {
    let (rows, half) = angles.cos.dims2()?;
    if head_dim == 0 || 2 * half > head_dim || angles.sin.dims2()? != (rows, half) {
        bail!("angles {:?} and {:?} for heads of {head_dim}", angles.cos.shape(), angles.sin.shape());
    }
    for x in [q, k] {
        let (x_rows, width) = x.dims2()?;
        if x_rows != rows || !width.is_multiple_of(head_dim) {
            bail!("rotary embedding of {:?} in heads of {head_dim} with angles of {rows} rows", x.shape());
        }
    }
    for w in norm.iter().flat_map(|norm| [norm.q, norm.k]) {
        if w.dims1()? != head_dim {
            bail!("head norm weights {:?} for heads of {head_dim}", w.shape());
        }
    }
    let _timer = profile::op(|| {
        let values = q.elem_count() + k.elem_count();
        cost::qk_norm_rope(values / head_dim, half, if norm.is_some() { values } else { 0 })
    });
    if !q.device().is_cpu() {
        return reference::qk_norm_rope_(q, k, head_dim, angles, norm);
    }
    let eps = norm.map_or(0.0, |norm| norm.eps);
    q.inplace_op1(&NormRope { head_dim, angles, w: norm.map(|norm| norm.q), eps, width: q.dim(1)? })?;
    k.inplace_op1(&NormRope { head_dim, angles, w: norm.map(|norm| norm.k), eps, width: k.dim(1)? })
}

struct NormRope<'a> {
    head_dim: usize,
    angles: &'a RopeAngles,
    w: Option<&'a Tensor>,
    eps: f32,
    width: usize,
}

impl InplaceOp1 for NormRope<'_> {
    fn name(&self) -> &'static str {
        "qk_norm_rope"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let x = rows_mut(storage, layout)?;
        let RopeAngles { style, cos, sin } = self.angles;
        let (isa, half) = (chosen_isa()?, cos.dim(1)?);
        let mut rotate = |w: Option<&[f32]>| {
            rows_of(cos, |cos| {
                rows_of(sin, |sin| {
                    let norm = w.map(|w| cpu::HeadNorm { w, eps: self.eps });
                    cpu::norm_rope_(isa, x, self.width, self.head_dim, cpu::Angles { style: *style, cos, sin, half }, norm);
                })
            })
        };
        match self.w {
            Some(w) => rows_of(w, |w| rotate(Some(w)))??,
            None => rotate(None)?,
        }
    }
}
