//! The experts of a mixture on the CPU: rows sorted by expert, so that each expert's weights are read once for all of its rows.
//!
//! Two parallel regions: gate and up over (expert, columns), down over columns. A row's outputs are added up in ascending order
//! of its experts: a sum that begins at 0, each product rounded, then its addition; then one addition to the residual. Which
//! other rows an expert has cannot change a bit of that.

use std::ops::Range;

use super::isa::Isa;
use super::pool;
use super::product::{Block, Inputs, ROWS_MAX, block_width, cut, gated_block, with_scratch};
use super::shared_slice::SharedSlice;
use super::target::Target;
use crate::ops::linear::Activation;
use crate::ops::moe::{Experts, Routes};

/// Pairs of a row and an expert it goes to, sorted by expert, within an expert by row.
pub(crate) struct Pairs {
    /// The row of each pair.
    pub rows: Vec<u32>,
    /// What its output counts.
    pub weights: Vec<f32>,
    /// The experts that have any row, ascending.
    pub groups: Vec<Group>,
}

/// The pairs of one expert.
pub(crate) struct Group {
    pub expert: usize,
    pub pairs: Range<usize>,
}

impl Pairs {
    pub fn sort(routes: &Routes) -> Self {
        let mut next = vec![0; routes.count() + 1];
        routes.experts().iter().for_each(|expert| next[*expert as usize + 1] += 1);
        for expert in 0..routes.count() {
            next[expert + 1] += next[expert];
        }
        let groups = next.windows(2).enumerate().filter(|(_, ends)| ends[0] < ends[1]);
        let groups = groups.map(|(expert, ends)| Group { expert, pairs: ends[0]..ends[1] }).collect();
        let mut pairs = Self { rows: vec![0; routes.experts().len()], weights: vec![0.0; routes.experts().len()], groups };
        for (at, (expert, weight)) in routes.experts().iter().zip(routes.weights()).enumerate() {
            let place = next[*expert as usize];
            next[*expert as usize] += 1;
            (pairs.rows[place], pairs.weights[place]) = ((at / routes.used()) as u32, *weight);
        }
        pairs
    }

    /// Most rows of any expert.
    fn rows_max(&self) -> usize {
        self.groups.iter().map(|group| group.pairs.len()).max().unwrap_or(0)
    }
}

/// `act(x * gate^T) * (x * up^T)` of each pair, `[pairs, width]`; `x` is `rows` rows.
pub(crate) fn gated(isa: Isa, x: &[f32], rows: usize, pairs: &Pairs, experts: &Experts, act: Activation) -> Vec<f32> {
    let width = experts.width();
    // The experts of a stack are of one type, so the first one's forms of the rows serve all.
    let all = Inputs::new(isa, x, rows, [&experts.gate()[0], &experts.up()[0]]);
    let inputs: Vec<_> = pairs.groups.iter().map(|group| all.gather(&pairs.rows[group.pairs.clone()])).collect();
    let mut out = Vec::new();
    let bytes = pairs.groups.len() * (experts.gate()[0].bytes().as_slice().len() + experts.up()[0].bytes().as_slice().len());
    let columns = block_width(pairs.rows_max(), pairs.groups.len() * width, bytes);
    let groups = pairs.groups.iter().zip(&inputs);
    let tasks: Vec<_> = groups.flat_map(|group| cut(width, columns).map(move |columns| (group, columns))).collect();
    let shared = SharedSlice::of_capacity(&mut out, pairs.rows.len() * width);
    pool::pool().run(tasks.len(), |task| {
        let ((group, inputs), columns) = &tasks[task];
        for block in blocks(group, columns) {
            let weights = [&experts.gate()[group.expert], &experts.up()[group.expert]];
            // SAFETY: these columns of these pairs belong to this task alone.
            unsafe { gated_block(inputs, weights, act, &block, &shared, group.pairs.start + block.rows.start) };
        }
    });
    // SAFETY: the tasks cover all columns of all pairs: every output is written.
    unsafe { out.set_len(pairs.rows.len() * width) };
    out
}

/// Adds the weighted `inner [pairs, width] * down^T` of each pair to its row of `residual`.
pub(crate) fn down_add(isa: Isa, inner: &[f32], pairs: &Pairs, experts: &Experts, residual: &mut [f32]) {
    let hidden = experts.hidden();
    let (rows, width) = (residual.len() / hidden, experts.width());
    let inputs = pairs.groups.iter().map(|group| {
        let inner = &inner[group.pairs.start * width..group.pairs.end * width];
        Inputs::new(isa, inner, group.pairs.len(), [&experts.down()[0]])
    });
    let inputs: Vec<_> = inputs.collect();
    let tasks: Vec<_> =
        cut(hidden, block_width(pairs.rows_max(), hidden, pairs.groups.len() * experts.down()[0].bytes().as_slice().len())).collect();
    let residual = SharedSlice::new(residual);
    pool::pool().run(tasks.len(), |task| {
        let columns = &tasks[task];
        let stride = Block { rows: 0..0, columns: columns.clone() }.stride();
        with_scratch((rows + pairs.rows_max().min(ROWS_MAX)) * stride, |scratch| {
            let (sums, products) = scratch.split_at_mut(rows * stride);
            sums.fill(0.0);
            for (group, inputs) in pairs.groups.iter().zip(&inputs) {
                for block in blocks(group, columns) {
                    let products = &mut products[..block.rows.len() * stride];
                    inputs.product(&experts.down()[group.expert], &block, Target::scratch(products, &block));
                    for (pair, values) in block.rows.zip(products.chunks_exact(stride)) {
                        let pair = group.pairs.start + pair;
                        let (row, weight) = (pairs.rows[pair] as usize, pairs.weights[pair]);
                        sums[row * stride..][..stride].iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
                    }
                }
            }
            for (row, sums) in sums.chunks_exact(stride).enumerate() {
                // SAFETY: these columns of the residual belong to this task alone.
                let out = unsafe { residual.run(row * hidden + columns.start, columns.len()) };
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        });
    });
}

/// The outputs `columns` of a group's pairs, counted from its first, as many rows at a time as the scratch is made for.
fn blocks<'a>(group: &'a Group, columns: &'a Range<usize>) -> impl Iterator<Item = Block> + 'a {
    cut(group.pairs.len(), ROWS_MAX).map(move |rows| Block { rows, columns: columns.clone() })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::ops::moe::route;

    #[test]
    fn pairs_are_sorted_by_expert_then_by_row() {
        // Rows choose experts (1, 3), (3, 0), (1, 2): expert 4 has nobody.
        let logits: [[f32; 5]; 3] = [[0.0, 5.0, 0.0, 4.0, 0.0], [4.0, 0.0, 0.0, 5.0, 0.0], [0.0, 5.0, 4.0, 0.0, 0.0]];
        let routes = route(&Tensor::new(&logits, &Device::Cpu).unwrap(), 2, true).unwrap();
        let pairs = Pairs::sort(&routes);
        assert_eq!(pairs.rows, [1, 0, 2, 2, 0, 1]);
        let groups: Vec<_> = pairs.groups.iter().map(|group| (group.expert, group.pairs.clone())).collect();
        assert_eq!(groups, [(0, 0..1), (1, 1..3), (2, 3..4), (3, 4..6)]);
        assert_eq!(pairs.rows_max(), 2);
        let (high, low) = (routes.weights()[0], routes.weights()[1]);
        assert_eq!(pairs.weights, [low, high, high, low, low, high]);
    }
}
