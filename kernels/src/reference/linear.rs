//! Matrix products the plain way: the weight dequantised to f32, then Candle's dense product.
//!
//! Takes the activations as they are, so it differs from the fast CPU bodies by their quantisation of them.

use candle_core::{Result, Tensor};

use crate::ops::linear::Activation;
use crate::{Weight, blocks};

/// The weight as an f32 tensor `[N, K]` on its device.
pub fn dense(w: &Weight) -> Result<Tensor> {
    let mut out = vec![0.0; w.rows() * w.cols()];
    blocks::dequantize(w.ggml_type(), w.bytes().as_slice(), &mut out);
    Tensor::from_vec(out, (w.rows(), w.cols()), w.device())
}

/// [`crate::ops::linear::linear`] by definition.
pub fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let product = x.contiguous()?.matmul(&dense(w)?.t()?)?;
    match bias {
        Some(bias) => product.broadcast_add(bias),
        None => Ok(product),
    }
}

/// [`crate::ops::linear::linear_multi`] by definition.
pub fn linear_multi(x: &Tensor, ws: &[(&Weight, Option<&Tensor>)]) -> Result<Vec<Tensor>> {
    ws.iter().map(|(w, bias)| linear(x, w, *bias)).collect()
}

/// [`crate::ops::linear::linear_add_`] by definition, the sum returned instead of written.
pub fn linear_add(residual: &Tensor, x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    residual + linear(x, w, bias)?
}

/// [`crate::ops::linear::ffn_gated`] by definition.
pub fn ffn_gated(x: &Tensor, gate: &Weight, up: &Weight, act: Activation) -> Result<Tensor> {
    let gates = linear(x, gate, None)?;
    let gates = match act {
        Activation::Silu => candle_nn::ops::silu(&gates)?,
        Activation::GeluTanh => gates.gelu()?,
    };
    gates * linear(x, up, None)?
}

/// [`crate::ops::embed::embed`] by definition.
pub fn embed(w: &Weight, ids: &[u32]) -> Result<Tensor> {
    dense(w)?.index_select(&Tensor::new(ids, w.device())?, 0)
}

/// [`crate::ops::embed::gather_rows`] by definition.
pub fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    x.contiguous()?.index_select(&Tensor::new(rows, x.device())?, 0)
}
