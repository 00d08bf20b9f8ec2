//! A mixture of experts the plain way: softmax, a stable sort, and one expert after the other over the rows that chose it.
//!
//! Ascending experts, each product rounded before it is added: the order the CPU body keeps, too.

use candle_core::{Result, Tensor};

use super::linear::{ffn_gated, linear};
use crate::Weight;
use crate::ops::moe::{Experts, MoeSpec};

/// [`crate::ops::moe::moe_ffn_add_`] by definition, without the residual: `[T, hidden]`.
pub fn moe_ffn(x: &Tensor, router: &Weight, experts: &Experts, spec: MoeSpec) -> Result<Tensor> {
    let probabilities = candle_nn::ops::softmax_last_dim(&linear(x, router, None)?)?.to_vec2::<f32>()?;
    let mut groups = vec![(Vec::new(), Vec::new()); experts.count()];
    for (row, probabilities) in probabilities.iter().enumerate() {
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
        order.truncate(spec.used);
        let sum: f32 = if spec.renormalise { order.iter().map(|expert| probabilities[*expert]).sum() } else { 1.0 };
        for expert in order {
            groups[expert].0.push(row as u32);
            groups[expert].1.push(probabilities[expert] / sum);
        }
    }
    let groups = groups.iter().enumerate().filter(|(_, (rows, _))| !rows.is_empty());
    apply_each(x, groups.map(|(expert, (rows, weights))| (expert, rows.as_slice(), weights.as_slice())), |expert, rows| {
        linear(&ffn_gated(rows, &experts.gate()[expert], &experts.up()[expert], spec.activation)?, &experts.down()[expert], None)
    })
}

/// `apply(expert, rows of x)` times its weights, added up for each row of `x [T, hidden]` in the order of `groups`, which are an
/// expert, its rows and their weights.
pub(crate) fn apply_each<'a>(
    x: &Tensor,
    groups: impl IntoIterator<Item = (usize, &'a [u32], &'a [f32])>,
    apply: impl Fn(usize, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut sum = x.zeros_like()?;
    for (expert, rows, weights) in groups {
        let ids = Tensor::new(rows, x.device())?;
        let weights = Tensor::new(weights, x.device())?.unsqueeze(1)?;
        let outputs = apply(expert, &x.index_select(&ids, 0)?)?.broadcast_mul(&weights)?;
        sum = sum.index_add(&ids, &outputs, 0)?;
    }
    Ok(sum)
}
