//! Mixture of experts (Shazeer et al. 2017): a router chooses for each row a few of many gated feed-forward layers, and their
//! outputs are added up by weight.
//!
//! On CPU the rows are sorted by expert and each expert's weights are used where they lie, once for all of its rows; on CUDA and
//! Metal each expert's rows are gathered and go through Candle's quantized products. The CPU body gives a row the same bits alone
//! and in company, on any number of threads and any instruction set: its outputs are added up in ascending order of its experts.

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, bail};

use super::linear::{Activation, ffn_gated, linear, with_values};
use super::{chosen_isa, rows_mut};
use crate::Weight;
use crate::cpu::experts::{self, Pairs};
use crate::cpu::isa::Isa;
use crate::cpu::pool;
use crate::cpu::router;
use crate::cpu::shared_slice::SharedSlice;
use crate::profile::cost::{self, Cost};
use crate::profile::{self, Key, Op};
use crate::reference::moe::apply_each;

/// How rows are sent to experts, and what an expert does between its products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeSpec {
    /// Experts a row uses.
    pub used: usize,
    /// Whether the weights of the experts used are divided by their sum.
    pub renormalise: bool,
    pub activation: Activation,
}

/// The experts of one layer: `gate` and `up` `[width, hidden]`, `down` `[hidden, width]` each.
#[derive(Debug, Clone)]
pub struct Experts {
    gate: Vec<Weight>,
    up: Vec<Weight>,
    down: Vec<Weight>,
}

impl Experts {
    /// Errors: no expert, stacks of different length, and within or between stacks a shape, a type (within a stack) or a device
    /// that does not fit.
    pub fn new(gate: Vec<Weight>, up: Vec<Weight>, down: Vec<Weight>) -> Result<Self> {
        let Some(first) = gate.first() else { bail!("a mixture without experts") };
        let (width, hidden) = (first.rows(), first.cols());
        for (name, stack, rows, cols) in [("gate", &gate, width, hidden), ("up", &up, width, hidden), ("down", &down, hidden, width)] {
            if stack.len() != gate.len() {
                bail!("a mixture of {} experts has {} {name} matrices", gate.len(), stack.len());
            }
            for (expert, weight) in stack.iter().enumerate() {
                if (weight.rows(), weight.cols()) != (rows, cols) {
                    bail!("the {name} matrix of expert {expert} is {} x {}, not {rows} x {cols}", weight.rows(), weight.cols());
                }
                if weight.ggml_type() != stack[0].ggml_type() {
                    bail!("the {name} matrix of expert {expert} is {}, the first one {}", weight.ggml_type(), stack[0].ggml_type());
                }
                if !weight.device().same_device(first.device()) {
                    bail!("the {name} matrix of expert {expert} lies on {:?}", weight.device().location());
                }
            }
        }
        Ok(Self { gate, up, down })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.gate.len()
    }

    /// Width of an expert.
    pub fn width(&self) -> usize {
        self.gate[0].rows()
    }

    /// Width of the rows.
    pub fn hidden(&self) -> usize {
        self.gate[0].cols()
    }

    pub fn gate(&self) -> &[Weight] {
        &self.gate
    }

    pub fn up(&self) -> &[Weight] {
        &self.up
    }

    pub fn down(&self) -> &[Weight] {
        &self.down
    }
}

/// Which experts each row uses, and what each output counts. On the host, on every device.
#[derive(Debug, Clone, PartialEq)]
pub struct Routes {
    used: usize,
    count: usize,
    experts: Vec<u32>,
    weights: Vec<f32>,
}

impl Routes {
    /// Experts a row uses.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Experts there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// `[T, used]`, row-major; of a row the likeliest first.
    pub fn experts(&self) -> &[u32] {
        &self.experts
    }

    /// `[T, used]`, as [`Self::experts`].
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    fn rows(&self) -> usize {
        self.experts.len() / self.used
    }
}

/// From the router's `logits [T, experts]` to routes: softmax over all experts, then the `used` largest (of equals the lowest
/// index), then with `renormalise` their probabilities divided by their sum. Qwen3's way with `renormalise`.
///
/// Errors: logits not f32 `[T, experts]`, `used` 0 or more than there are.
pub fn route(logits: &Tensor, used: usize, renormalise: bool) -> Result<Routes> {
    let _timer = profile::op(|| (Key::of(Op::Route), Cost::default()));
    let (rows, count) = logits.dims2()?;
    if logits.dtype() != DType::F32 {
        bail!("route: the logits are {:?}, not f32", logits.dtype());
    }
    if used == 0 || used > count {
        bail!("route: {used} of {count} experts");
    }
    let isa = chosen_isa()?;
    let mut logits = logits.flatten_all()?.to_vec1::<f32>()?;
    let (mut experts, mut weights) = (vec![0; rows * used], vec![0.0; rows * used]);
    let shared = (SharedSlice::new(&mut logits), SharedSlice::new(&mut experts), SharedSlice::new(&mut weights));
    // 32 rows of 128 experts are about 10 microseconds of work.
    const ROWS: usize = 32;
    pool::pool().run(rows.div_ceil(ROWS), |task| {
        for row in task * ROWS..rows.min((task + 1) * ROWS) {
            // SAFETY: each row belongs to one task alone.
            let (logits, experts, weights) =
                unsafe { (shared.0.run(row * count, count), shared.1.run(row * used, used), shared.2.run(row * used, used)) };
            router::choose(isa, logits, renormalise, experts, weights);
        }
    });
    Ok(Routes { used, count, experts, weights })
}

/// `residual [T, hidden] += sum over a row's experts of weight * down(act(gate(x)) * up(x))`, in place; `x [T, hidden]`,
/// `router [experts, hidden]`. `residual` must be contiguous and owned by the caller alone; it may be `x` itself.
///
/// Each expert's products are [`linear`]'s, to the bit and with its error bound. Errors: operands of another shape, type or
/// device than the experts', what [`route`] refuses, a bad `UNDERSTUDY_ISA`.
pub fn moe_ffn_add_(residual: &Tensor, x: &Tensor, router: &Weight, experts: &Experts, spec: MoeSpec) -> Result<()> {
    let routes = route(&linear(x, router, None)?, spec.used, spec.renormalise)?;
    experts_add_(residual, x, &routes, experts, spec.activation)
}

/// [`moe_ffn_add_`] for rows whose routes are known. Error besides: routes of other rows or of another number of experts.
pub fn experts_add_(residual: &Tensor, x: &Tensor, routes: &Routes, experts: &Experts, act: Activation) -> Result<()> {
    let (rows, hidden) = x.dims2()?;
    if hidden != experts.hidden() || x.dtype() != DType::F32 || !x.device().same_device(experts.gate[0].device()) {
        bail!("experts: rows of {hidden} {:?} on {:?} meet experts of {}", x.dtype(), x.device().location(), experts.hidden());
    }
    if residual.dims() != [rows, hidden] || residual.dtype() != DType::F32 || !residual.is_contiguous() {
        bail!("experts: the residual is {:?}, not contiguous f32 [{rows}, {hidden}]", residual.layout());
    }
    if !residual.device().same_device(x.device()) {
        bail!("experts: the residual lies on {:?}, the rows on {:?}", residual.device().location(), x.device().location());
    }
    if routes.rows() != rows || routes.count != experts.count() {
        bail!("experts: routes of {} rows to {} experts meet {rows} rows and {}", routes.rows(), routes.count, experts.count());
    }
    if rows == 0 {
        return Ok(());
    }
    let pairs = Pairs::sort(routes);
    let _timer = profile::op(|| {
        cost::experts(pairs.groups.iter().map(|group| {
            let matrices = [&experts.gate, &experts.up, &experts.down];
            (group.pairs.len(), matrices.into_iter().map(move |stack| &stack[group.expert]))
        }))
    });
    if !x.device().is_cpu() {
        let sum = (residual + on_device(x, &pairs, experts, act)?)?;
        return residual.slice_set(&sum, 0, 0);
    }
    let isa = chosen_isa()?;
    // The rows are read here and not inside the op, which holds the residual's lock: they may share a storage.
    let inner = with_values(x, |x| Ok(experts::gated(isa, x, rows, &pairs, experts, act)))?;
    residual.inplace_op1(&AddExperts { isa, inner, pairs, experts })
}

/// The sums of the weighted outputs, expert by expert through Candle's products.
fn on_device(x: &Tensor, pairs: &Pairs, experts: &Experts, act: Activation) -> Result<Tensor> {
    let groups = pairs.groups.iter().map(|group| (group.expert, &pairs.rows[group.pairs.clone()], &pairs.weights[group.pairs.clone()]));
    apply_each(x, groups, |expert, rows| {
        linear(&ffn_gated(rows, &experts.gate[expert], &experts.up[expert], act)?, &experts.down[expert], None)
    })
}

struct AddExperts<'a> {
    isa: Isa,
    inner: Vec<f32>,
    pairs: Pairs,
    experts: &'a Experts,
}

impl InplaceOp1 for AddExperts<'_> {
    fn name(&self) -> &'static str {
        "experts_add_"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        experts::down_add(self.isa, &self.inner, &self.pairs, self.experts, rows_mut(storage, layout)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{GgmlType, quantize};

    /// What runs on CUDA and Metal, where it needs no device: over our own products it gives the bits of the CPU body.
    #[test]
    fn the_device_body_is_the_same_sum() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
        };
        let stack = |rows: usize, cols: usize, ty, seed| {
            let bytes = quantize::quantize(ty, &numbers(5 * rows * cols, seed)).unwrap();
            Weight::stack(&bytes.into(), ty, 5, (rows, cols), &Device::Cpu).unwrap()
        };
        let experts =
            Experts::new(stack(96, 64, GgmlType::Q8_0, 1), stack(96, 64, GgmlType::F16, 2), stack(64, 96, GgmlType::Q4_0, 3)).unwrap();
        let tensor = |rows: usize, cols: usize, seed| Tensor::from_vec(numbers(rows * cols, seed), (rows, cols), &Device::Cpu).unwrap();
        let (x, residual) = (tensor(9, 64, 4), tensor(9, 64, 5));
        let routes = route(&tensor(9, 5, 6), 3, true).unwrap();
        let plain = (&residual + on_device(&x, &Pairs::sort(&routes), &experts, Activation::Silu).unwrap()).unwrap();
        experts_add_(&residual, &x, &routes, &experts, Activation::Silu).unwrap();
        let bits = |t: &Tensor| -> Vec<u32> { t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|y| y.to_bits()).collect() };
        assert_eq!(bits(&residual), bits(&plain));
    }
}
