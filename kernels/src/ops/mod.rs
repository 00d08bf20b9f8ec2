//! The ops, one a file: what it computes, which body runs where.
//! Activations are f32 `[T, width]`, contiguous.

pub mod attention;
pub mod embed;
pub mod linear;
pub mod moe;
pub mod norm;
pub mod rope;
pub mod softmax;

use candle_core::{CpuStorage, Error, Result, Storage, Tensor, bail};

use crate::cpu::isa::{Isa, isa};

/// The instruction set to use; a wrong `UNDERSTUDY_ISA` is an error of every op.
pub(crate) fn chosen_isa() -> Result<Isa> {
    isa().map_err(Error::wrap)
}

/// Hands the values of a contiguous f32 tensor on the CPU to `read`, where they lie.
pub(crate) fn rows_of<R>(x: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("activations {:?} are not contiguous", x.shape()) };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(read(&values[start..end])),
        _ => bail!("activations are f32 on the CPU here, found {:?} on {:?}", x.dtype(), x.device()),
    }
}

/// The values of a contiguous f32 tensor inside an in-place op.
pub(crate) fn rows_mut<'a>(storage: &'a mut CpuStorage, layout: &candle_core::Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("an op in place needs a contiguous tensor") };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => bail!("activations are f32"),
    }
}
