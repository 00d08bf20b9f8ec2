//! Matrix products on the CPU: cuts the outputs into blocks, spreads them over the pool, and finishes each (bias, residual,
//! gate) while it is warm. How a block is computed is the bodies' matter; that all agree to the bit is their promise, so
//! nothing decided here can change a result.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use super::activation::{Activations, Panels, Scale, Shape};
use super::isa::Isa;
use super::row_lanes::Emulated;
use super::shared_slice::SharedSlice;
use super::sums::Sums;
use super::target::{Target, Write};
#[cfg(target_arch = "x86_64")]
use super::{avx_vnni, avx2, avx2_few, avx512, avx512_few};
use super::{dense, gate, pool, scalar, tile};
#[cfg(target_arch = "aarch64")]
use super::{i8mm, neon};
use crate::ops::linear::Activation as Gate;
use crate::{GgmlType, Weight};

/// Columns of a block are filled up to a multiple of this: what the widest body stores at once.
const COLUMNS: usize = 16;

/// Rows of activations and columns (rows of the weight) of one block of outputs.
pub(crate) struct Block {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Block {
    /// Distance of two rows in the scratch a block is computed into: its columns, filled up to whole tiles.
    #[inline]
    pub fn stride(&self) -> usize {
        self.columns.len().next_multiple_of(COLUMNS)
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

    fn gather(&self, rows: &[u32]) -> DenseRows<'static> {
        let values = rows.iter().flat_map(|row| self.row(*row as usize)).copied().collect();
        DenseRows { stride: self.stride, values: Cow::Owned(values) }
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
    per256: Option<Quantized>,
    per32: Option<Quantized>,
}

/// Quantised rows, and the same in panels where the number of rows asks for the tiled body.
struct Quantized {
    rows: Activations,
    panels: Option<Panels>,
}

impl Quantized {
    fn new(isa: Isa, rows: Activations) -> Self {
        let panels = shape(isa, rows.rows).map(|shape| Panels::of(&rows, shape));
        Self { rows, panels }
    }

    fn gather(&self, isa: Isa, rows: &[u32]) -> Self {
        Self::new(isa, self.rows.gather(rows))
    }
}

/// Panels of the tiled body; `None` where another one computes so many rows.
fn shape(isa: Isa, rows: usize) -> Option<Shape> {
    #[cfg(not(target_arch = "x86_64"))]
    let _ = rows;
    match isa {
        Isa::Scalar => None,
        Isa::Emulated512 => Some(Emulated::SHAPE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni if rows <= avx2_few::ROWS_MAX => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if rows <= avx512_few::ROWS_MAX => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if rows <= avx_vnni::NarrowAvx512::SHAPE.lanes => Some(avx_vnni::NarrowAvx512::SHAPE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(avx2::Avx2::SHAPE),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => Some(avx_vnni::AvxVnni::SHAPE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Some(avx512::Avx512::SHAPE),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Some(neon::Neon::SHAPE),
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm => Some(i8mm::I8mm::SHAPE),
        #[allow(unreachable_patterns)]
        other => unreachable!("{other} is not a set of this CPU"),
    }
}

impl<'a> Inputs<'a> {
    /// `x` is `rows` rows as wide as all of `weights`.
    pub fn new<'w>(isa: Isa, x: &'a [f32], rows: usize, weights: impl IntoIterator<Item = &'w Weight>) -> Self {
        let mut inputs = Self { isa, rows, dense: None, per256: None, per32: None };
        for weight in weights {
            let cols = weight.cols();
            let quantise = |scale| Quantized::new(isa, Activations::quantise(isa, x, rows, cols, scale));
            match scale_for(weight.ggml_type()) {
                None => _ = inputs.dense.get_or_insert_with(|| DenseRows::new(x, rows, cols)),
                Some(scale @ Scale::Per256) => _ = inputs.per256.get_or_insert_with(|| quantise(scale)),
                Some(scale @ Scale::Per32) => _ = inputs.per32.get_or_insert_with(|| quantise(scale)),
            }
        }
        inputs
    }

    /// Rows `rows` of these, in the order given: what was quantised once serves every expert that a row goes to.
    pub fn gather(&self, rows: &[u32]) -> Inputs<'static> {
        Inputs {
            isa: self.isa,
            rows: rows.len(),
            dense: self.dense.as_ref().map(|dense| dense.gather(rows)),
            per256: self.per256.as_ref().map(|quantised| quantised.gather(self.isa, rows)),
            per32: self.per32.as_ref().map(|quantised| quantised.gather(self.isa, rows)),
        }
    }

    /// Computes one block of outputs of `weight`. The block's rows begin at a multiple of [`ROWS_MAX`].
    pub fn product(&self, weight: &Weight, block: &Block, mut out: Target<'_>) {
        let quantized = match scale_for(weight.ggml_type()) {
            None => return through_scratch(block, &mut out, |out| self.dense_product(weight, block, out)),
            Some(Scale::Per256) => &self.per256,
            Some(Scale::Per32) => &self.per32,
        };
        let Quantized { rows, panels } = quantized.as_ref().expect("prepared for every weight");
        match (self.isa, panels) {
            // SAFETY: plain code.
            (Isa::Scalar | Isa::Emulated512, Some(x)) => unsafe { tile::quantized::<Emulated>(weight, x, block, &mut out) },
            (Isa::Scalar | Isa::Emulated512, None) => through_scratch(block, &mut out, |out| scalar::quantized(weight, rows, block, out)),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a set is chosen only where the CPU has it.
            (Isa::Avx2, Some(x)) => unsafe { avx2::quantized(weight, x, block, &mut out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::AvxVnni, Some(x)) => unsafe { avx_vnni::quantized(weight, x, block, &mut out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::Avx512, Some(x)) if x.shape == avx_vnni::NarrowAvx512::SHAPE => unsafe {
                avx_vnni::quantized_narrow(weight, x, block, &mut out)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::Avx512, Some(x)) => unsafe { avx512::quantized(weight, x, block, &mut out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            (Isa::Neon, Some(x)) => unsafe { neon::quantized(weight, x, block, &mut out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            (Isa::I8mm, Some(x)) => unsafe { i8mm::quantized(weight, x, block, &mut out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Isa::Avx512, None) => unsafe { avx512_few::quantized(weight, rows, block, &mut out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, and AVX-VNNI only beside AVX2.
            (Isa::Avx2 | Isa::AvxVnni, None) => unsafe { avx2_few::quantized(weight, rows, block, &mut out) },
            (other, _) => unreachable!("{other} is not a set of this CPU"),
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
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::dense(weight, x, block, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::dense(weight, x, block, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: NEON is in every 64-bit ARM CPU.
            Isa::Neon | Isa::I8mm => unsafe { dense::dense::<neon::Neon>(weight, x, block, out) },
            #[allow(unreachable_patterns)]
            other => unreachable!("{other} is not a set of this CPU"),
        }
    }
}

/// For bodies that write rows of `block.stride()`.
fn through_scratch(block: &Block, target: &mut Target<'_>, body: impl FnOnce(&mut [f32])) {
    with_scratch(block.rows.len() * block.stride(), |scratch| {
        body(scratch);
        scratch.chunks_exact(block.stride()).enumerate().for_each(|(row, values)| target.put_row(row, values));
    });
}

fn scale_for(ty: GgmlType) -> Option<Scale> {
    match ty.block_size() {
        1 => None,
        32 => Some(Scale::Per32),
        _ => Some(Scale::Per256),
    }
}

/// One of the products of the same rows.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub weight: &'a Weight,
    pub bias: Option<&'a [f32]>,
}

/// `x * weight^T + bias` of each, `[rows, weight.rows()]`, in one parallel region.
pub(crate) fn products(inputs: &Inputs<'_>, of: &[Product<'_>]) -> Vec<Vec<f32>> {
    let mut outs: Vec<Vec<f32>> = of.iter().map(|_| Vec::new()).collect();
    let lengths = of.iter().map(|product| inputs.rows * product.weight.rows());
    let shared: Vec<_> = outs.iter_mut().zip(lengths.clone()).map(|(out, len)| SharedSlice::of_capacity(out, len)).collect();
    write_products(inputs, of, &shared, Write::Set);
    for (out, len) in outs.iter_mut().zip(lengths) {
        // SAFETY: the tasks cover all columns of all rows: every output is written.
        unsafe { out.set_len(len) };
    }
    outs
}

/// `out += x * weight^T + bias`, `[rows, weight.rows()]`.
pub(crate) fn add_product(inputs: &Inputs<'_>, product: Product<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), inputs.rows * product.weight.rows(), "rows of another length");
    write_products(inputs, &[product], &[SharedSlice::new(out)], Write::Add);
}

fn write_products(inputs: &Inputs<'_>, of: &[Product<'_>], outs: &[SharedSlice<'_, f32>], write: Write) {
    let weights = || of.iter().map(|product| product.weight);
    let width = block_width(inputs.rows, weights().map(Weight::rows).sum(), weights().map(|weight| weight.bytes().as_slice().len()).sum());
    let tasks = of.iter().zip(outs).flat_map(|of| cut(of.0.weight.rows(), width).map(move |columns| (of, columns)));
    let tasks: Vec<_> = tasks.collect();
    pool::pool().run(tasks.len(), |task| {
        let ((Product { weight, bias }, out), columns) = &tasks[task];
        for rows in cut(inputs.rows, ROWS_MAX) {
            let block = Block { rows, columns: columns.clone() };
            // SAFETY: these columns of this output belong to this task alone, and `Add` comes with initialised outputs.
            let target = unsafe { Target::new(out, weight.rows(), block.rows.start, &block, *bias, write) };
            inputs.product(weight, &block, target);
        }
    });
}

/// `gate(x * gate^T) * (x * up^T)`, `[rows, gate.rows()]`, in one parallel region.
pub(crate) fn gated(inputs: &Inputs<'_>, gate: &Weight, up: &Weight, function: Gate) -> Vec<f32> {
    let width = gate.rows();
    let mut out = Vec::new();
    let tasks: Vec<_> = cut(width, block_width(inputs.rows, width, gate.bytes().as_slice().len() + up.bytes().as_slice().len())).collect();
    let shared = SharedSlice::of_capacity(&mut out, inputs.rows * width);
    pool::pool().run(tasks.len(), |task| {
        for rows in cut(inputs.rows, ROWS_MAX) {
            let block = Block { rows, columns: tasks[task].clone() };
            // SAFETY: these columns of the output belong to this task alone.
            unsafe { gated_block(inputs, [gate, up], function, &block, &shared, block.rows.start) };
        }
    });
    // SAFETY: the tasks cover all columns of all rows: every output is written.
    unsafe { out.set_len(inputs.rows * width) };
    out
}

/// [`gated`] for one block, whose first row is row `row` of `out`.
///
/// # Safety
/// While this runs nobody else reads or writes these outputs.
pub(super) unsafe fn gated_block(
    inputs: &Inputs<'_>,
    [gate, up]: [&Weight; 2],
    function: Gate,
    block: &Block,
    out: &SharedSlice<'_, f32>,
    row: usize,
) {
    with_scratch(block.rows.len() * block.stride(), |ups| {
        inputs.product(up, block, Target::scratch(ups, block));
        // SAFETY: the caller's promise.
        inputs.product(gate, block, unsafe { Target::new(out, gate.rows(), row, block, None, Write::Set) });
        for (nth, ups) in ups.chunks_exact(block.stride()).enumerate() {
            // SAFETY: as above; the product was just written there.
            let gates = unsafe { out.run((row + nth) * gate.rows() + block.columns.start, block.columns.len()) };
            gate::combine(inputs.isa, function, gates, &ups[..block.columns.len()]);
        }
    });
}

/// Rows computed before the next rows start: 512 x 64 f32 of scratch stay in the second-level cache.
pub(super) const ROWS_MAX: usize = 512;

/// Columns of one task of `rows` rows, `columns` columns and `bytes` of weights in all: a multiple of 16, small enough that every thread finds several tasks, large
/// enough that taking one costs nothing beside it and reading reaches its speed.
pub(super) fn block_width(rows: usize, columns: usize, bytes: usize) -> usize {
    let threads = pool::pool().threads();
    let tasks = (bytes / TASK_BYTES / threads).clamp(if rows > 32 { 4 } else { 2 }, 8) * threads;
    let widest = if rows <= 8 { 256 } else { 48 };
    (columns / tasks).next_multiple_of(16).clamp(16, widest)
}

/// Of weights: some tens of microseconds of reading, beside which a task's first reads, which nothing asked for ahead, are few.
const TASK_BYTES: usize = 512 << 10;

pub(super) fn cut(total: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(width).map(move |start| start..total.min(start + width))
}

/// Runs `work` on `len` values of this thread's scratch memory, whose contents are left-overs.
pub(super) fn with_scratch(len: usize, work: impl FnOnce(&mut [f32])) {
    thread_local! {
        /// One for each call inside another.
        static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    work(&mut scratch[..len]);
    SCRATCH.with_borrow_mut(|all| all.push(scratch));
}
