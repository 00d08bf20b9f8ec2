//! What an op cannot do without, counted from shapes: bytes of weights, keys and values that come from memory once, and arithmetic.
//!
//! Pure. Activations are not counted as bytes: they are small beside the weights and mostly in a cache. An operation is an addition
//! or a multiplication.

use std::ops::AddAssign;

use crate::ops::attention::AttentionSpec;
use crate::{GgmlType, KvDtype, Step, Weight};

use super::{Key, Op};

/// Bytes and operations of an op.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights, or of keys and values, read or written.
    pub bytes: u64,
    /// On 8-bit integers: products with quantised weights.
    pub int8_operations: u64,
    /// On f32.
    pub float_operations: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.int8_operations += other.int8_operations;
        self.float_operations += other.float_operations;
    }
}

/// What the machine can do at most, measured by `cpu::peak` on all threads: in 1e9 a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub read_gb: f64,
    pub int8_gops: f64,
    pub float_gops: f64,
}

impl Cost {
    /// The roofline (Williams, Waterman, Patterson 2009): the shortest time this machine could need, the larger of the time to bring
    /// the bytes and the time to compute.
    pub fn seconds_at_least(&self, limits: &Limits) -> f64 {
        let reading = self.bytes as f64 / limits.read_gb;
        let computing = self.int8_operations as f64 / limits.int8_gops + self.float_operations as f64 / limits.float_gops;
        reading.max(computing) / 1e9
    }

    /// All operations, of whatever kind.
    pub fn operations(&self) -> u64 {
        self.int8_operations + self.float_operations
    }
}

/// `rows` rows times each of `weights`: every block once from memory, 2 operations a weight and row. Weights without blocks (F32,
/// F16, BF16) are multiplied in f32, all others in 8 bits.
pub fn product<'a>(op: Op, rows: usize, weights: impl Iterator<Item = &'a Weight> + Clone) -> (Key, Cost) {
    let shapes = weights.map(|weight| (weight.ggml_type(), weight.cols(), weight.rows()));
    product_of_shapes(op, rows, shapes)
}

/// [`product`] of weights `(type, inputs, outputs)`.
fn product_of_shapes(op: Op, rows: usize, weights: impl Iterator<Item = (GgmlType, usize, usize)> + Clone) -> (Key, Cost) {
    let mut cost = Cost::default();
    let mut types: Vec<&str> = Vec::new();
    for (ty, inputs, outputs) in weights.clone() {
        cost.bytes += (ty.row_bytes(inputs).unwrap_or(0) * outputs) as u64;
        let operations = 2 * (rows * inputs * outputs) as u64;
        match ty.block_size() {
            1 => cost.float_operations += operations,
            _ => cost.int8_operations += operations,
        }
        if !types.contains(&ty.name()) {
            types.push(ty.name());
        }
    }
    let inputs = weights.clone().next().map_or(0, |(_, inputs, _)| inputs);
    let outputs: usize = weights.map(|(_, _, outputs)| outputs).sum();
    (Key { op, detail: format!("{} {inputs} -> {outputs}", types.join("+")) }, cost)
}

/// Experts of a mixture: each of `groups`, a number of rows and the matrices of the expert they go to, as [`product`].
pub fn experts<'a, W>(groups: impl Iterator<Item = (usize, W)>) -> (Key, Cost)
where
    W: Iterator<Item = &'a Weight> + Clone,
{
    let mut all = Cost::default();
    let mut detail = String::new();
    for (rows, weights) in groups {
        let (key, cost) = product(Op::Experts, rows, weights);
        all += cost;
        detail = key.detail;
    }
    (Key { op: Op::Experts, detail }, all)
}

/// Rows of an embedding table, dequantised: their blocks, no arithmetic worth counting.
pub fn embed(rows: usize, table: &Weight) -> (Key, Cost) {
    let bytes = table.ggml_type().row_bytes(table.cols()).unwrap_or(0) * rows;
    (Key::of(Op::Embed), Cost { bytes: bytes as u64, ..Cost::default() })
}

/// Root-mean-square norm of `values` values: square, add, and two multiplications each.
pub fn rms_norm(values: usize) -> (Key, Cost) {
    (Key::of(Op::RmsNorm), Cost { float_operations: 4 * values as u64, ..Cost::default() })
}

/// Rotation of `heads` heads (of all rows together), `pairs` pairs each: four multiplications and two additions a pair; `normed`
/// values pass a norm before.
pub fn qk_norm_rope(heads: usize, pairs: usize, normed: usize) -> (Key, Cost) {
    let float_operations = (6 * heads * pairs + 4 * normed) as u64;
    (Key::of(Op::QkNormRope), Cost { float_operations, ..Cost::default() })
}

/// Keys and values of `rows` rows into the cache, `row_bytes` each.
pub fn kv_write(rows: usize, row_bytes: u64) -> (Key, Cost) {
    (Key::of(Op::KvWrite), Cost { bytes: rows as u64 * row_bytes, ..Cost::default() })
}

/// Attention of a step: what any of a span's rows sees of keys and values comes from memory once a span in the form of `kv_type`;
/// a row at position `p` multiplies and adds over `min(p + 1, window)` keys and as many values.
pub fn paged_attention(step: &Step, spec: &AttentionSpec, kv_type: KvDtype) -> (Key, Cost) {
    let window = spec.window.unwrap_or(usize::MAX);
    let token_bytes = kv_type.bytes((2 * spec.kv_heads * spec.head_dim) as u64);
    let mut cost = Cost::default();
    for span in &step.spans {
        let first = span.kv_len - span.q_len;
        let seen_by_any = span.kv_len - (first + 1).saturating_sub(window);
        let seen: usize = (first..span.kv_len).map(|position| (position + 1).min(window)).sum();
        cost.bytes += seen_by_any as u64 * token_bytes;
        cost.float_operations += (4 * spec.heads * spec.head_dim * seen) as u64;
    }
    (Key::of(Op::PagedAttention), cost)
}

#[cfg(test)]
mod tests {
    use crate::{LogitRows, StepBuilder};

    use super::*;

    #[test]
    fn the_products_of_a_block_of_a_1_5b_model() {
        // Query, key and value of Qwen2.5-1.5B: 1536 -> 1536 + 256 + 256, Q4_K at 4.5 bits, the value in Q6_K at 6.5625 bits.
        let weights = [(GgmlType::Q4K, 1536, 1536), (GgmlType::Q4K, 1536, 256), (GgmlType::Q6K, 1536, 256)];
        let (key, cost) = product_of_shapes(Op::LinearMulti, 512, weights.into_iter());
        assert_eq!(key.detail, "Q4_K+Q6_K 1536 -> 2048");
        assert_eq!(cost.bytes, 1536 * 1792 * 9 / 16 + 1536 * 256 * 105 / 128);
        assert_eq!((cost.int8_operations, cost.float_operations), (2 * 512 * 1536 * 2048, 0));
        let (_, cost) = product_of_shapes(Op::Linear, 3, [(GgmlType::F16, 10, 7)].into_iter());
        assert_eq!(cost, Cost { bytes: 140, int8_operations: 0, float_operations: 420 });
    }

    #[test]
    fn attention_counts_what_is_seen() {
        let spec = AttentionSpec { scale: 1.0, heads: 12, kv_heads: 2, head_dim: 128, window: None, softcap: None, sinks: None };
        // Three rows at depth 40 and a decoding step of 33 tokens: 41 + 42 + 43 and 33 keys.
        let mut builder = StepBuilder::new();
        builder.push(40, 3, &[0, 1], LogitRows::Last).expect("fits");
        builder.push(32, 1, &[2, 3], LogitRows::Last).expect("fits");
        let step = builder.finish();
        let (_, cost) = paged_attention(&step, &spec, KvDtype::F16);
        assert_eq!(cost.bytes, (43 + 33) * 2 * 2 * 128 * 2);
        assert_eq!(cost.float_operations, (41 + 42 + 43 + 33) * 4 * 12 * 128);
        // A window of 10 hides all but 12 keys of the first span, 10 of the second.
        let (_, cost) = paged_attention(&step, &AttentionSpec { window: Some(10), ..spec }, KvDtype::F16);
        assert_eq!(cost.bytes, (12 + 10) * 2 * 2 * 128 * 2);
        assert_eq!(cost.float_operations, 40 * 4 * 12 * 128);
    }

    #[test]
    fn the_roof_is_the_slower_of_reading_and_computing() {
        let limits = Limits { read_gb: 10.0, int8_gops: 500.0, float_gops: 100.0 };
        let bound = |bytes, int8_operations, float_operations| {
            let cost = Cost { bytes, int8_operations, float_operations };
            (cost.seconds_at_least(&limits) * 1e3).round()
        };
        assert_eq!(bound(1_000_000_000, 500_000_000, 0), 100.0, "reading");
        assert_eq!(bound(1_000_000, 1_000_000_000, 100_000_000), 3.0, "computing of both kinds, one after the other");
    }
}
