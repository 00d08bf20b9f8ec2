//! Matrix products with GGUF weights.
//!
//! On CPU our own bodies, on the blocks as they lie; on CUDA and Metal Candle's quantized product. The CPU bodies give the
//! same bits for a row alone and in company, on any number of threads and any instruction set: `cpu::scalar` writes down the order.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Module, Result, Storage, Tensor, bail};

use crate::Weight;
use crate::cpu::isa::isa;
use crate::cpu::product::{self, Inputs, Product};
use crate::profile::{self, Op, cost};

/// Activation function of a gated feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// The tanh form of GELU.
    GeluTanh,
}

/// `x [T, K] * w^T [K, N] + bias [N]` -> `[T, N]`, all f32.
///
/// Error bound on CPU against exact arithmetic over the weights as they stand in their blocks: types of 256 weights a block
/// `sum |w| * d_x / 2`, `d_x = max |x| / 127` over each 256 values of the row (types of 32: over each 32, and `sum |w x| / 4096`,
/// since that scale has eleven bits as in ggml), plus rounding of the sum, about `1e-6 * sum |w x|` (of types with minima:
/// of the sum of the magnitudes of both parts); F32, F16, BF16 the rounding alone.
/// Errors: `x` not f32 `[T, K]`, `bias` not f32 `[N]`, operands on another device than `w`, a bad `UNDERSTUDY_ISA`.
pub fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let _timer = profile::op(|| cost::product(Op::Linear, rows_for_cost(x), [w].into_iter()));
    let mut outputs = products(x, &[(w, bias)])?;
    Ok(outputs.pop().expect("one weight, one output"))
}

/// Several products of the same rows: one quantisation of `x`, one parallel region. Each bias may be absent.
/// Output `i` equals [`linear`] of weight `i`, to the bit; errors as there.
pub fn linear_multi(x: &Tensor, ws: &[(&Weight, Option<&Tensor>)]) -> Result<Vec<Tensor>> {
    let _timer = profile::op(|| cost::product(Op::LinearMulti, rows_for_cost(x), ws.iter().map(|(w, _)| *w)));
    products(x, ws)
}

fn products(x: &Tensor, ws: &[(&Weight, Option<&Tensor>)]) -> Result<Vec<Tensor>> {
    let rows = check(x, ws)?;
    if !x.device().is_cpu() {
        return ws.iter().map(|(w, bias)| on_device(x, w, *bias)).collect();
    }
    let biases = ws.iter().map(|(_, bias)| bias.map(host_values).transpose()).collect::<Result<Vec<_>>>()?;
    let of: Vec<_> = ws.iter().zip(&biases).map(|((weight, _), bias)| Product { weight, bias: bias.as_deref() }).collect();
    let outs = with_values(x, |x| {
        let inputs = Inputs::new(isa().map_err(candle_core::Error::wrap)?, x, rows, ws.iter().map(|(w, _)| *w));
        Ok(product::products(&inputs, &of))
    })?;
    outs.into_iter().zip(ws).map(|(out, (w, _))| Tensor::from_vec(out, (rows, w.rows()), &Device::Cpu)).collect()
}

/// `residual += x * w^T + bias`, in place; `residual [T, N]` must be contiguous and owned by the caller alone.
/// Equals [`linear`] and one addition, to the bit; errors as there.
pub fn linear_add_(residual: &Tensor, x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Result<()> {
    let _timer = profile::op(|| cost::product(Op::LinearAdd, rows_for_cost(x), [w].into_iter()));
    let rows = check(x, &[(w, bias)])?;
    if residual.dims() != [rows, w.rows()] || residual.dtype() != DType::F32 || !residual.is_contiguous() {
        bail!("linear_add_: the residual is {:?}, not contiguous f32 [{rows}, {}]", residual.layout(), w.rows());
    }
    if !residual.device().same_device(x.device()) {
        bail!("linear_add_: the residual lies on {:?}, the rows on {:?}", residual.device().location(), x.device().location());
    }
    if !x.device().is_cpu() {
        let sum = (residual + on_device(x, w, bias)?)?;
        return residual.slice_set(&sum, 0, 0);
    }
    let isa = isa().map_err(candle_core::Error::wrap)?;
    let bias = bias.map(host_values).transpose()?;
    let product = Product { weight: w, bias: bias.as_deref() };
    let add = |x: &[f32]| residual.inplace_op1(&AddProduct { inputs: Inputs::new(isa, x, rows, [w]), product });
    // The op locks the residual's storage, so rows that lie in the same one are copied out of it first.
    if share_a_storage(x, residual) { add(&x.flatten_all()?.to_vec1::<f32>()?) } else { with_values(x, add) }
}

fn share_a_storage(a: &Tensor, b: &Tensor) -> bool {
    let of = |tensor: &Tensor| std::ptr::from_ref(&*tensor.storage_and_layout().0);
    of(a) == of(b)
}

struct AddProduct<'a> {
    inputs: Inputs<'a>,
    product: Product<'a>,
}

impl InplaceOp1 for AddProduct<'_> {
    fn name(&self) -> &'static str {
        "linear_add_"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { bail!("linear_add_: the residual is not f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("linear_add_: the residual is not contiguous") };
        product::add_product(&self.inputs, self.product, &mut values[start..end]);
        Ok(())
    }
}

/// `act(x * gate^T) * (x * up^T)` -> `[T, I]`, for `gate` and `up` `[I, K]`. Errors as [`linear`]'s, and `gate` and `up` of different shapes.
pub fn ffn_gated(x: &Tensor, gate: &Weight, up: &Weight, act: Activation) -> Result<Tensor> {
    let _timer = profile::op(|| cost::product(Op::FfnGated, rows_for_cost(x), [gate, up].into_iter()));
    let rows = check(x, &[(gate, None), (up, None)])?;
    if gate.rows() != up.rows() {
        bail!("ffn_gated: the gate has {} outputs, the up projection {}", gate.rows(), up.rows());
    }
    if !x.device().is_cpu() {
        let gates = on_device(x, gate, None)?;
        let gates = match act {
            Activation::Silu => candle_nn::ops::silu(&gates)?,
            Activation::GeluTanh => gates.gelu()?,
        };
        return gates * on_device(x, up, None)?;
    }
    let out = with_values(x, |x| {
        let inputs = Inputs::new(isa().map_err(candle_core::Error::wrap)?, x, rows, [gate, up]);
        Ok(product::gated(&inputs, gate, up, act))
    })?;
    Tensor::from_vec(out, (rows, gate.rows()), &Device::Cpu)
}

/// The number of rows; of what is not `[T, K]`, which is refused afterwards, none.
fn rows_for_cost(x: &Tensor) -> usize {
    x.dims2().map_or(0, |(rows, _)| rows)
}

/// The number of rows, once everything fits together.
fn check(x: &Tensor, ws: &[(&Weight, Option<&Tensor>)]) -> Result<usize> {
    let (rows, width) = x.dims2()?;
    if x.dtype() != DType::F32 {
        bail!("linear: the rows are {:?}, not f32", x.dtype());
    }
    for (w, bias) in ws {
        if w.cols() != width {
            bail!("linear: rows of {width} values meet a weight of {} x {}", w.rows(), w.cols());
        }
        if !w.device().same_device(x.device()) {
            bail!("linear: the rows lie on {:?}, the weight on {:?}", x.device().location(), w.device().location());
        }
        let Some(bias) = bias else { continue };
        if bias.dims() != [w.rows()] || bias.dtype() != DType::F32 || !bias.device().same_device(x.device()) {
            bail!("linear: a bias of {:?} {:?} meets a weight of {} x {}", bias.dtype(), bias.dims(), w.rows(), w.cols());
        }
    }
    Ok(rows)
}

/// The product on CUDA or Metal. A fresh copy of a view: Candle's Metal product reads an offset view from its storage's start.
fn on_device(x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(matrix) = w.on_device() else { bail!("linear: the weight was not uploaded to {:?}", w.device().location()) };
    if x.dim(0)? == 0 || w.rows() == 0 {
        return Tensor::zeros((x.dim(0)?, w.rows()), DType::F32, x.device());
    }
    let product = matrix.forward(&x.copy()?.contiguous()?)?;
    match bias {
        Some(bias) => product.broadcast_add(bias),
        None => Ok(product),
    }
}

/// Calls `work` with the values of a CPU tensor in row-major order, copied only where they do not lie so.
pub(crate) fn with_values<R>(x: &Tensor, work: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the tensor is not in host memory") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("the tensor is not contiguous") };
    work(&storage.as_slice::<f32>()?[start..end])
}

fn host_values(x: &Tensor) -> Result<Vec<f32>> {
    x.to_vec1::<f32>()
}
