//! Activations in eight bits: what a row of f32 becomes before it meets a quantized weight.
//!
//! As ggml's: types of 256 weights a block take one scale for 256 values (its Q8_K), types of 32 one for 32 (its Q8_0; its Q8_1
//! for Q4_1 and Q5_1 is the same with the sum beside it), which is rounded to the 11 significant bits of half precision, but not
//! to half precision's narrow range. `q = round(x * 127 / max|x|)`, halves to even, the largest value +-127 with its own sign;
//! `|x - d q| <= d / 2`, `d = max|x| / 127`, and `|x| / 4096` more where `d` is rounded.
//!
//! A block whose largest magnitude is below 1e-30 counts as zero. One with an infinity or a NaN gets the scale NaN, so that
//! the outputs that depend on it are NaN, too, and not a plausible number.

use super::isa::Isa;
use super::pool;
use super::row_lanes::RowLanes;
use super::shared_slice::SharedSlice;

/// Values of one chunk; the last chunk of a row is filled up with zeros.
pub(crate) const CHUNK: usize = 256;

/// 256 consecutive values of one row.
#[derive(Clone)]
#[repr(C, align(32))]
pub(crate) struct Activation {
    pub q: [i8; CHUNK],
    /// Sums of `q` over 16 values each: at most 16 * 127.
    pub sums16: [i16; 16],
    /// Sums of `q` over 32 values each.
    pub sums32: [i16; 8],
    /// The scale of each 32 values; all equal where one scale serves the whole chunk.
    pub d: [f32; 8],
}

/// How many values share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Per256,
    Per32,
}

/// Quantised rows: chunk `c` of row `r` at `c * rows + r`, so that the rows of one chunk lie together.
pub(crate) struct Activations {
    pub rows: usize,
    /// Chunks a row.
    pub chunks: usize,
    blocks: Vec<Activation>,
}

impl Activations {
    /// Quantises `x`, `rows` rows of `cols` values each; in parallel over rows.
    pub fn quantise(isa: Isa, x: &[f32], rows: usize, cols: usize, scale: Scale) -> Self {
        assert_eq!(x.len(), rows * cols, "rows of another length");
        let chunks = cols.div_ceil(CHUNK);
        let mut blocks: Vec<Activation> = Vec::with_capacity(rows * chunks);
        let out = SharedSlice::new(blocks.spare_capacity_mut());
        // About 10 microseconds of work a task: fewer rows are not worth waking a thread.
        let rows_per_task = (16_384 / cols.max(1)).max(1);
        pool::pool().run(rows.div_ceil(rows_per_task), |task| {
            for row in task * rows_per_task..rows.min((task + 1) * rows_per_task) {
                for (chunk, values) in x[row * cols..(row + 1) * cols].chunks(CHUNK).enumerate() {
                    let block = quantise_chunk(isa, values, scale);
                    // SAFETY: each (chunk, row) belongs to one task alone.
                    unsafe { out.get(chunk * rows + row) }.write(block);
                }
            }
        });
        // SAFETY: the tasks cover all rows, and each row all its chunks: every element is written.
        unsafe { blocks.set_len(rows * chunks) };
        Self { rows, chunks, blocks }
    }

    /// Rows `rows` of these, in the order given; a row may be asked for more than once. In parallel over chunks and runs of rows.
    pub fn gather(&self, rows: &[u32]) -> Self {
        // 64 blocks are 22 KB to copy, about as long as it takes to wake a thread.
        const RUN: usize = 64;
        let mut blocks: Vec<Activation> = Vec::with_capacity(rows.len() * self.chunks);
        let out = SharedSlice::new(blocks.spare_capacity_mut());
        let runs = rows.len().div_ceil(RUN);
        pool::pool().run(runs * self.chunks, |task| {
            let (chunk, first) = (task / runs, task % runs * RUN);
            let from = self.chunk(chunk, 0, self.rows);
            for (at, row) in rows.iter().enumerate().skip(first).take(RUN) {
                // SAFETY: each (chunk, place) belongs to one task alone.
                unsafe { out.get(chunk * rows.len() + at) }.write(from[*row as usize].clone());
            }
        });
        // SAFETY: the tasks cover all chunks, and in each all places: every element is written.
        unsafe { blocks.set_len(rows.len() * self.chunks) };
        Self { rows: rows.len(), chunks: self.chunks, blocks }
    }

    /// The blocks of rows `first..first + count` in chunk `chunk`.
    #[inline]
    pub fn chunk(&self, chunk: usize, first: usize, count: usize) -> &[Activation] {
        &self.blocks[chunk * self.rows + first..][..count]
    }
}

/// How a panel is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows: 4, 8 or 16.
    pub lanes: usize,
    /// Values of a row that lie side by side, before those of the next row: 4 or 8.
    pub values: usize,
}

/// Quantised rows, a few side by side in lanes: what the tiled body reads.
///
/// A panel holds one chunk of a few rows; the rows beyond the last are zero. In it, one after the other: 64 groups of four values
/// of each row, or 32 of eight; the sums of 16 values, two i16 a lane, eight times; those of 32 values, four times; eight scales a row.
pub(crate) struct Panels {
    pub shape: Shape,
    /// Chunks a row.
    pub chunks: usize,
    rows: usize,
    /// Panels a chunk.
    panels: usize,
    lines: Vec<Line>,
}

/// What a panel is made of, so that its parts are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Bytes of a panel for each of its lanes.
const LANE_BYTES: usize = 256 + 32 + 16 + 32;

/// A few panels of one chunk, side by side.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub count: usize,
    /// Without those that fill the last panel up. Only ARM's bodies ask.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    pub rows: usize,
    lines: &'a [Line],
}

impl Panels {
    /// Lays `rows` out in panels; in parallel over them.
    pub fn of(rows: &Activations, shape: Shape) -> Self {
        let lanes = shape.lanes;
        let (panels, chunks) = (rows.rows.div_ceil(lanes), rows.chunks);
        let lines_each = lanes * LANE_BYTES / size_of::<Line>();
        let mut lines: Vec<Line> = Vec::with_capacity(lines_each * panels * chunks);
        let out = SharedSlice::new(lines.spare_capacity_mut());
        pool::pool().run(panels * chunks, |index| {
            let (chunk, panel) = (index / panels, index % panels);
            let first = panel * lanes;
            let blocks = rows.chunk(chunk, first, lanes.min(rows.rows - first));
            // SAFETY: each panel belongs to one task alone.
            let out = unsafe { out.run(index * lines_each, lines_each) };
            for line in &mut *out {
                line.write(Line([0; 16]));
            }
            // SAFETY: every line was just written, and a line is sixteen u32.
            let words = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u32>(), 16 * lines_each) };
            match shape.values {
                4 => fill_panel::<1>(blocks, lanes, words),
                8 => fill_panel::<2>(blocks, lanes, words),
                other => unreachable!("no panel of {other} values side by side"),
            }
        });
        // SAFETY: the tasks cover all panels.
        unsafe { lines.set_len(lines_each * panels * chunks) };
        Self { shape, chunks, rows: rows.rows, panels, lines }
    }

    /// Panels `first..first + count` of chunk `chunk`.
    #[inline]
    pub fn panels(&self, chunk: usize, first: usize, count: usize) -> Panel<'_> {
        let lanes = self.shape.lanes;
        let lines_each = lanes * LANE_BYTES / size_of::<Line>();
        let lines = &self.lines[(chunk * self.panels + first) * lines_each..][..count * lines_each];
        Panel { count, rows: (self.rows - first * lanes).min(count * lanes), lines }
    }
}

/// One chunk of up to `lanes` rows, word by word of four bytes, `SIDE` words of values side by side.
fn fill_panel<const SIDE: usize>(blocks: &[Activation], lanes: usize, words: &mut [u32]) {
    let (values, others) = words.split_at_mut(CHUNK / 4 * lanes);
    for (lane, block) in blocks.iter().enumerate() {
        let groups = values[lane * SIDE..].chunks_mut(lanes * SIDE);
        for (group, q) in groups.zip(block.q.as_chunks::<4>().0.chunks_exact(SIDE)) {
            group.iter_mut().zip(q).for_each(|(word, q)| *word = u32::from_ne_bytes(q.map(|q| q as u8)));
        }
        let mut lane = others[lane..].iter_mut().step_by(lanes);
        let mut put = |word: u32| *lane.next().expect("20 words a lane") = word;
        for pair in block.sums16.chunks_exact(2).chain(block.sums32.chunks_exact(2)) {
            put(u32::from(pair[0] as u16) | (u32::from(pair[1] as u16) << 16));
        }
        block.d.iter().for_each(|d| put(d.to_bits()));
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn word<V: RowLanes>(&self, panel: usize, word: usize) -> *const u32 {
        assert!(panel < self.count && self.lines.len() == self.count * V::ROWS * LANE_BYTES / size_of::<Line>() && word < LANE_BYTES / 4);
        // SAFETY: within the panels, whose words of all lanes lie one after the other.
        unsafe { self.lines.as_ptr().cast::<u32>().add((panel * LANE_BYTES / 4 + word) * V::ROWS) }
    }

    /// Values `4 * group..4 * group + 4` of each row; of a panel of eight side by side, `group` even: those and the next four.
    #[inline(always)]
    pub fn q<V: RowLanes>(&self, panel: usize, group: usize) -> *const i8 {
        debug_assert!(group < 64);
        self.word::<V>(panel, group).cast()
    }

    /// Sums of 16 values, `2 * pair` and the next.
    #[inline(always)]
    pub fn sums16<V: RowLanes>(&self, panel: usize, pair: usize) -> *const i32 {
        debug_assert!(pair < 8);
        self.word::<V>(panel, 64 + pair).cast()
    }

    /// Sums of 32 values, `2 * pair` and the next.
    #[inline(always)]
    pub fn sums32<V: RowLanes>(&self, panel: usize, pair: usize) -> *const i32 {
        debug_assert!(pair < 4);
        self.word::<V>(panel, 72 + pair).cast()
    }

    /// The scale of values `32 * run..32 * run + 32` of each row.
    #[inline(always)]
    pub fn d<V: RowLanes>(&self, panel: usize, run: usize) -> *const f32 {
        debug_assert!(run < 8);
        self.word::<V>(panel, 76 + run).cast()
    }
}

fn quantise_chunk(isa: Isa, values: &[f32], scale: Scale) -> Activation {
    match isa {
        Isa::Scalar | Isa::Emulated512 | Isa::Neon | Isa::I8mm => quantise_chunk_body(values, scale),
        // SAFETY: these sets are chosen only where the CPU has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => unsafe { quantise_chunk_avx2(values, scale) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => quantise_chunk_body(values, scale),
    }
}

/// The same code, compiled for wider registers; it has no operation that could round differently there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn quantise_chunk_avx2(values: &[f32], scale: Scale) -> Activation {
    quantise_chunk_body(values, scale)
}

#[inline(always)]
fn quantise_chunk_body(values: &[f32], scale: Scale) -> Activation {
    let mut x = [0.0f32; CHUNK];
    x[..values.len()].copy_from_slice(values);
    let mut out = Activation { q: [0; CHUNK], sums16: [0; 16], sums32: [0; 8], d: [0.0; 8] };
    match scale {
        Scale::Per256 => out.d = [quantise_run(&x, &mut out.q); 8],
        Scale::Per32 => {
            for ((x, q), d) in x.chunks_exact(32).zip(out.q.chunks_exact_mut(32)).zip(&mut out.d) {
                *d = to_half_precision(quantise_run(x, q));
            }
        }
    }
    for (sum, q) in out.sums16.iter_mut().zip(out.q.chunks_exact(16)) {
        *sum = q.iter().map(|q| i16::from(*q)).sum();
    }
    out.sums32 = std::array::from_fn(|i| out.sums16[2 * i] + out.sums16[2 * i + 1]);
    out
}

/// Quantises values that share a scale, and returns it.
#[inline(always)]
fn quantise_run(x: &[f32], q: &mut [i8]) -> f32 {
    // Magnitudes order like their bits, NaN above infinity: one integer maximum finds the largest and any non-finite value.
    let mut largest = 0i32;
    for x in x {
        largest = largest.max((x.to_bits() & 0x7fff_ffff) as i32);
    }
    let largest = f32::from_bits(largest as u32);
    if !largest.is_finite() {
        return f32::NAN;
    }
    if largest < 1e-30 {
        return 0.0;
    }
    let inverse = 127.0 / largest;
    // Adding 1.5 * 2^23 leaves the nearest integer (halves to even) in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for (q, x) in q.iter_mut().zip(x) {
        let rounded = (x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
        *q = rounded.clamp(-127, 127) as i8;
    }
    largest / 127.0
}

/// The nearest number with 11 significant bits, halves to even; zero and NaN stay. Not `f16::from_f32`, which loses scales outside
/// of 6e-5..65504 that ggml loses, too.
#[inline(always)]
fn to_half_precision(d: f32) -> f32 {
    let bits = d.to_bits();
    if d.is_nan() { d } else { f32::from_bits((bits + 0x0fff + ((bits >> 13) & 1)) & !0x1fff) }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn one(values: &[f32], scale: Scale) -> Activation {
        let all: Vec<Activation> = Isa::available().into_iter().map(|isa| quantise_chunk(isa, values, scale)).collect();
        for other in &all[1..] {
            assert_eq!(other.q, all[0].q);
            assert_eq!(other.d.map(f32::to_bits), all[0].d.map(f32::to_bits));
        }
        all.into_iter().next().expect("scalar is always there")
    }

    #[test]
    fn values_are_within_half_a_step_and_sums_are_sums() {
        let values: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();
        for scale in [Scale::Per256, Scale::Per32] {
            let block = one(&values, scale);
            for (i, x) in values.iter().enumerate() {
                let d = block.d[i / 32];
                let rounded = if scale == Scale::Per32 { x.abs() / 4096.0 } else { 0.0 };
                assert!((x - d * f32::from(block.q[i])).abs() <= d * 0.500_2 + rounded, "{i} {scale:?}");
            }
            for i in 0..16 {
                let sum: i32 = block.q[16 * i..][..16].iter().map(|q| i32::from(*q)).sum();
                assert_eq!(i32::from(block.sums16[i]), sum);
            }
            for i in 0..8 {
                assert_eq!(block.sums32[i], block.sums16[2 * i] + block.sums16[2 * i + 1]);
            }
        }
    }

    #[test]
    fn a_panel_has_every_number_of_its_rows_where_its_shape_says() {
        let (rows, cols) = (11, 300);
        let x: Vec<f32> = (0..rows * cols).map(|i| ((i * 29 % 211) as f32 - 105.0) * 0.01).collect();
        let rows = Activations::quantise(Isa::Scalar, &x, rows, cols, Scale::Per32);
        for (lanes, values) in [(4, 4), (8, 4), (16, 4), (4, 8), (8, 8)] {
            let panels = Panels::of(&rows, Shape { lanes, values });
            for (chunk, row) in (0..2).flat_map(|chunk| (0..11usize.next_multiple_of(lanes)).map(move |row| (chunk, row))) {
                let panel = panels.panels(chunk, row / lanes, 1);
                assert_eq!(panel.rows, (11 - row / lanes * lanes).min(lanes));
                let words: Vec<u32> = panel.lines.iter().flat_map(|line| line.0).collect();
                let lane = row % lanes;
                let byte = |k: usize| {
                    let at = (k / values * lanes + lane) * values + k % values;
                    words[at / 4].to_ne_bytes()[at % 4] as i8
                };
                let other = |word: usize| words[word * lanes + lane];
                let two = |sums: &[i16], pair: usize| u32::from(sums[2 * pair] as u16) | (u32::from(sums[2 * pair + 1] as u16) << 16);
                let empty = Activation { q: [0; CHUNK], sums16: [0; 16], sums32: [0; 8], d: [0.0; 8] };
                let wanted = if row < 11 { &rows.chunk(chunk, row, 1)[0] } else { &empty };
                assert!((0..CHUNK).all(|k| byte(k) == wanted.q[k]), "{lanes} x {values}: values of row {row}");
                assert!((0..8).all(|pair| other(64 + pair) == two(&wanted.sums16, pair)), "{lanes} x {values}: sums of 16");
                assert!((0..4).all(|pair| other(72 + pair) == two(&wanted.sums32, pair)), "{lanes} x {values}: sums of 32");
                assert!((0..8).all(|run| other(76 + run) == wanted.d[run].to_bits()), "{lanes} x {values}: scales");
            }
            assert_eq!(panels.panels(0, 0, 2).rows, 11.min(2 * lanes));
        }
    }

    #[test]
    fn halves_go_to_even_and_the_largest_keeps_its_sign() {
        let mut values = [0.0; 32];
        values[..6].copy_from_slice(&[-127.0, 0.5, 1.5, -2.5, 126.4, 3.0]);
        let block = one(&values, Scale::Per32);
        assert_eq!(block.q[..6], [-127, 0, 2, -2, 126, 3]);
        assert_eq!(block.d[0], 1.0);
        assert_eq!(block.d[1], 0.0);
    }

    #[test]
    fn a_scale_of_32_values_has_half_precision_but_not_its_range() {
        for x in [1.0f32, 3.3, 0.07, 123.456, 127.0 * 2049.0 / 2048.0, 6000.0] {
            let block = one(&[x; 32], Scale::Per32);
            assert_eq!(block.d[0], f16::from_f32(x / 127.0).to_f32(), "{x}");
            assert_eq!(one(&[x; 256], Scale::Per256).d[0], x / 127.0, "{x}");
        }
        for x in [1e-20f32, 1e-6, 1e20] {
            let d = one(&[x; 32], Scale::Per32).d[0];
            assert!((d - x / 127.0).abs() <= x / 127.0 / 4095.0, "{x}");
        }
    }

    #[test]
    fn zeros_and_dust_are_zero_and_non_finite_blocks_are_nan() {
        assert_eq!(one(&[0.0; 256], Scale::Per256).d, [0.0; 8]);
        let dust = one(&[1e-38; 40], Scale::Per32);
        assert_eq!((dust.d[0], dust.q[0]), (0.0, 0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 64];
            values[40] = bad;
            let block = one(&values, Scale::Per32);
            assert_eq!(block.d[0], f16::from_f32(1.0 / 127.0).to_f32());
            assert!(block.d[1].is_nan());
            assert!(one(&values, Scale::Per256).d[0].is_nan());
        }
        assert!(one(&[f32::MAX; 32], Scale::Per32).d[0].is_finite());
    }
}
