//! Matrix products on the CPU: cuts the outputs into blocks, spreads them over the pool, and finishes each (bias, residual,
//! gate) while it is warm. How a block is computed is the bodies' matter; that all agree to the bit is their promise, so
//! nothing decided here can change a result.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use super::activation::{Activations, Scale};
use super::isa::Isa;
use super::lanes::Emulated;
use super::shared_slice::SharedSlice;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx2_few, avx512};
use super::{dense, gate, pool, scalar, tile};
use crate::ops::linear::Activation as Gate;
use crate::{GgmlType, Weight};

/// Rows of activations and columns (rows of the weight) of one block of outputs.
pub(crate) struct Block {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Block {
    /// Distance of two rows in the scratch a block is computed into: its columns, filled up to whole tiles.
    #[inline]
    pub fn stride(&self) -> usize {
        self.columns.len().next_multiple_of(tile::COLUMNS)
    }
}

/// Rows of f32 for dense weights, each filled up with zeros to a multiple of 16.
pub(crate) struct DenseRows<'a> {
    pub stride: usize,
    values: Cow<'a, [f32]>,
}

impl<'a> DenseRows<'a> {
    fn new(x: &'a [f32], rows: usize, cols: usize) -> Self {
        let stride = cols.next_multiple_of(16);
        if stride == cols {
            return Self { stride, values: Cow::Borrowed(x) };
        }
        let mut values = vec![0.0; rows * stride];
        for (padded, row) in values.chunks_exact_mut(stride).zip(x.chunks_exact(cols)) {
            padded[..cols].copy_from_slice(row);
        }
        Self { stride, values: Cow::Owned(values) }
    }

    #[inline]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..][..self.stride]
    }
}

/// The rows of one op, in each of the forms its weights ask for.
pub(crate) struct Inputs<'a> {
    isa: Isa,
    rows: usize,
    dense: Option<DenseRows<'a>>,
    per256: Option<Activations>,
    per32: Option<Activations>,
}

impl<'a> Inputs<'a> {
    /// `x` is `rows` rows as wide as all of `weights`.
    pub fn new<'w>(isa: Isa, x: &'a [f32], rows: usize, weights: impl IntoIterator<Item = &'w Weight>) -> Self {
        let mut inputs = Self { isa, rows, dense: None, per256: None, per32: None };
        for weight in weights {
            let cols = weight.cols();
            match scale_for(weight.ggml_type()) {
                None if inputs.dense.is_none() => inputs.dense = Some(DenseRows::new(x, rows, cols)),
                Some(scale @ Scale::Per256) if inputs.per256.is_none() => {
                    inputs.per256 = Some(Activations::quantise(isa, x, rows, cols, scale));
                }
                Some(scale @ Scale::Per32) if inputs.per32.is_none() => {
                    inputs.per32 = Some(Activations::quantise(isa, x, rows, cols, scale));
                }
                _ => {}
            }
        }
        inputs
    }

    /// Computes one block of outputs of `weight` into `out`, rows of `block.stride()`.
    fn product(&self, weight: &Weight, block: &Block, out: &mut [f32]) {
        let quantized = match scale_for(weight.ggml_type()) {
            None => return self.dense_product(weight, block, out),
            Some(Scale::Per256) => &self.per256,
            Some(Scale::Per32) => &self.per32,
        };
        let x = quantized.as_ref().expect("prepared for every weight");
        match self.isa {
            Isa::Scalar => scalar::quantized(weight, x, block, out),
            // SAFETY: plain code.
            Isa::Emulated512 => unsafe { tile::quantized::<Emulated>(weight, x, block, out) },
            #[cfg(target_arch = "x86_64")]
            _ if block.rows.len() <= avx2_few::ROWS_MAX && has_few_rows_body(weight.ggml_type()) => {
                // SAFETY: a set is chosen only where the CPU has it, and Avx512 only beside AVX2.
                unsafe { avx2_few::quantized(weight, x, block, out) }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { avx2::quantized(weight, x, block, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { avx512::quantized(weight, x, block, out) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => unreachable!("not a set of this CPU"),
        }
    }

    fn dense_product(&self, weight: &Weight, block: &Block, out: &mut [f32]) {
        let x = self.dense.as_ref().expect("prepared for every weight");
        match self.isa {
            Isa::Scalar => scalar::dense(weight, x, block, out),
            // SAFETY: plain code.
            Isa::Emulated512 => unsafe { dense::dense::<Emulated>(weight, x, block, out) },
            // SAFETY: a set is chosen only where the CPU has it.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::dense(weight, x, block, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::dense(weight, x, block, out) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => unreachable!("not a set of this CPU"),
        }
    }
}

fn scale_for(ty: GgmlType) -> Option<Scale> {
    match ty.block_size() {
        1 => None,
        32 => Some(Scale::Per32),
        _ => Some(Scale::Per256),
    }
}

/// The types `avx2_few` knows; the others go through the tile whatever the number of rows.
#[cfg(target_arch = "x86_64")]
fn has_few_rows_body(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K | GgmlType::Q8_0 | GgmlType::Q4_0)
}

/// What happens to the product of one weight.
pub(crate) struct Output<'a> {
    pub weight: &'a Weight,
    pub bias: Option<&'a [f32]>,
    /// `[rows, weight.rows()]`.
    pub out: &'a mut [f32],
    pub write: Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// `out = product + bias`.
    Set,
    /// `out += product + bias`: the bias first, then one addition.
    Add,
}

/// Several products of the same rows in one parallel region.
pub(crate) fn products(inputs: &Inputs<'_>, outputs: Vec<Output<'_>>) {
    let columns_total = outputs.iter().map(|o| o.weight.rows()).sum();
    let width = block_width(inputs.rows, columns_total);
    let mut tasks = Vec::new();
    for (index, output) in outputs.iter().enumerate() {
        tasks.extend(cut(output.weight.rows(), width).map(|columns| (index, columns)));
    }
    let targets: Vec<_> = outputs.into_iter().map(|o| (o.weight, o.bias, SharedSlice::new(o.out), o.write)).collect();
    pool::pool().run(tasks.len(), |task| {
        let (index, columns) = &tasks[task];
        let (weight, bias, out, write) = &targets[*index];
        for rows in cut(inputs.rows, ROWS_MAX) {
            let block = Block { rows, columns: columns.clone() };
            with_scratch(block.rows.len() * block.stride(), |scratch| {
                inputs.product(weight, &block, scratch);
                for (row, values) in block.rows.clone().zip(scratch.chunks_exact_mut(block.stride())) {
                    let values = &mut values[..columns.len()];
                    if let Some(bias) = bias {
                        values.iter_mut().zip(&bias[columns.clone()]).for_each(|(v, b)| *v += b);
                    }
                    // SAFETY: these columns of this output belong to this task alone.
                    let out = unsafe { out.run(row * weight.rows() + columns.start, columns.len()) };
                    match write {
                        Write::Set => out.copy_from_slice(values),
                        Write::Add => out.iter_mut().zip(values).for_each(|(o, v)| *o += *v),
                    }
                }
            });
        }
    });
}

/// `gate(x * gate^T) * (x * up^T)` into `out [rows, gate.rows()]`, in one parallel region.
pub(crate) fn gated(inputs: &Inputs<'_>, gate: &Weight, up: &Weight, function: Gate, out: &mut [f32]) {
    let total = gate.rows();
    let tasks: Vec<_> = cut(total, block_width(inputs.rows, total)).collect();
    let out = SharedSlice::new(out);
    pool::pool().run(tasks.len(), |task| {
        let columns = &tasks[task];
        for rows in cut(inputs.rows, ROWS_MAX) {
            let block = Block { rows, columns: columns.clone() };
            let size = block.rows.len() * block.stride();
            with_scratch(2 * size, |scratch| {
                let (gates, ups) = scratch.split_at_mut(size);
                inputs.product(gate, &block, gates);
                inputs.product(up, &block, ups);
                gate::combine(inputs.isa, function, gates, ups);
                for (row, values) in block.rows.clone().zip(gates.chunks_exact(block.stride())) {
                    // SAFETY: these columns of the output belong to this task alone.
                    unsafe { out.run(row * total + columns.start, columns.len()) }.copy_from_slice(&values[..columns.len()]);
                }
            });
        }
    });
}

/// Rows computed before the next rows start: 512 x 64 f32 of scratch stay in the second-level cache.
const ROWS_MAX: usize = 512;

/// Columns of one task: a multiple of 16, small enough that every thread finds several tasks, large enough that taking one
/// costs nothing beside it.
fn block_width(rows: usize, columns_total: usize) -> usize {
    let widest = if rows <= 4 { 256 } else { 64 };
    (columns_total / (8 * pool::pool().threads())).next_multiple_of(16).clamp(16, widest)
}

fn cut(total: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(width).map(move |start| start..total.min(start + width))
}

/// Runs `work` on `len` values of this thread's scratch memory, whose contents are left-overs.
fn with_scratch(len: usize, work: impl FnOnce(&mut [f32])) {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        work(&mut scratch[..len]);
    });
}
