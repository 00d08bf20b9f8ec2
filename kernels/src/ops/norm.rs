//! Root-mean-square norm (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + eps) * w`.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};

use super::{chosen_isa, rows_mut, rows_of};
use crate::cpu::norm as cpu;
use crate::profile::{self, cost};
use crate::reference::attention as reference;

/// `[T, H]` -> `[T, H]`; `w [H]` f32.
///
/// Relative error against f64 below `(log2(H) + 4) * 2^-24`. Errors on other shapes and types.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let _timer = profile::op(|| cost::rms_norm(x.elem_count()));
    check(x, w)?;
    if !x.device().is_cpu() {
        return reference::rms_norm(x, w, eps);
    }
    let isa = chosen_isa()?;
    let mut out = vec![0.0f32; x.elem_count()];
    rows_of(x, |x| rows_of(w, |w| cpu::rms_norm(isa, x, w, eps, &mut out)))??;
    Tensor::from_vec(out, x.shape(), x.device())
}

/// `residual += delta`, then the norm of it: `[T, H]`. `residual` is contiguous and not the same tensor as `delta`.
pub fn add_rms_norm_(residual: &Tensor, delta: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let _timer = profile::op(|| cost::rms_norm(residual.elem_count()));
    check(residual, w)?;
    if residual.shape() != delta.shape() {
        bail!("add_rms_norm_ of {:?} and {:?}", residual.shape(), delta.shape());
    }
    if !residual.device().is_cpu() {
        return reference::add_rms_norm_(residual, delta, w, eps);
    }
    let op = AddRmsNorm { delta, w, eps, out: RefCell::new(vec![0.0f32; residual.elem_count()]) };
    residual.inplace_op1(&op)?;
    Tensor::from_vec(op.out.into_inner(), residual.shape(), residual.device())
}

fn check(x: &Tensor, w: &Tensor) -> Result<()> {
    let (_, width) = x.dims2()?;
    if width == 0 || w.dims1()? != width {
        bail!("norm of rows {:?} with weights {:?}", x.shape(), w.shape());
    }
    Ok(())
}

struct AddRmsNorm<'a> {
    delta: &'a Tensor,
    w: &'a Tensor,
    eps: f32,
    out: RefCell<Vec<f32>>,
}

impl InplaceOp1 for AddRmsNorm<'_> {
    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let residual = rows_mut(storage, layout)?;
        let mut out = self.out.borrow_mut();
        let isa = chosen_isa()?;
        rows_of(self.delta, |delta| rows_of(self.w, |w| cpu::add_rms_norm_(isa, residual, delta, w, self.eps, &mut out)))?
    }
}
