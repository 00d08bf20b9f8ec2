//! What the tiled bodies ask of an instruction set: sixteen outputs side by side, integers and floats.
//!
//! The algorithm is written once over this trait (`tile`, `dense`). An implementation is one line a method; that over plain arrays
//! below is the 512-bit one with nothing but the arithmetic left, so the algorithm is tested where the instructions are missing.

use crate::blocks::tables;

/// Sixteen lanes. In products with quantized weights a lane is a column (an output); in dense ones it is one of the sixteen chains.
///
/// # Safety
/// All methods: the CPU has the instruction set, and pointers are valid for what the method names. None needs alignment.
pub(crate) trait Lanes {
    /// Rows of activations in one register tile; a power of two.
    const ROWS: usize;
    /// How many dots of 4-, 5- and 6-bit weights a `Part` holds without overflow, at most 8, 8 and 4.
    const DOTS: [usize; 3];
    /// What [`Lanes::add_signed_dot`] adds per unit of activation beside the product: 128 where signed weights pass as unsigned.
    const SIGNED_OFFSET: i32;

    /// How many dots of signed weights a `Part` holds without overflow.
    const SIGNED_DOTS: usize;

    /// Four weights of each column, as unsigned bytes.
    type Weights: Copy;
    /// The same, signed.
    type SignedWeights: Copy;
    /// Four activations, the same for all columns.
    type Four: Copy;
    /// A sum of dots before its scale.
    type Part: Copy;
    type Int: Copy;
    type Float: Copy;

    /// A scale as `add_scaled` wants it in each i32 lane.
    fn pack_scale(scale: i16) -> i32;

    /// 64 bytes: column by column, four weights each.
    unsafe fn weights(at: *const u8) -> Self::Weights;
    unsafe fn signed_weights(at: *const u8) -> Self::SignedWeights;
    unsafe fn four(at: *const i8) -> Self::Four;
    /// The dot of four weights and four activations in each lane.
    unsafe fn first_dot(w: Self::Weights, x: Self::Four) -> Self::Part;
    unsafe fn add_dot(part: Self::Part, w: Self::Weights, x: Self::Four) -> Self::Part;
    /// `sum + part * scale`, the scale from [`Lanes::pack_scale`].
    unsafe fn add_scaled(sum: Self::Int, part: Self::Part, scale: Self::Int) -> Self::Int;
    unsafe fn unscaled(part: Self::Part) -> Self::Int;
    unsafe fn add_signed_dot(sum: Self::Int, w: Self::SignedWeights, x: Self::Four) -> Self::Int;
    /// As [`Lanes::add_signed_dot`], into a part that awaits its scale.
    unsafe fn first_signed_dot(w: Self::SignedWeights, x: Self::Four) -> Self::Part;
    /// At most [`Lanes::SIGNED_DOTS`] dots meet in a part.
    unsafe fn add_signed_part(part: Self::Part, w: Self::SignedWeights, x: Self::Four) -> Self::Part;
    /// `sum + a0 * b0 + a1 * b1` over the two i16 in each i32 of `a` and `b`.
    unsafe fn add_pairs(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;

    unsafe fn int(value: i32) -> Self::Int;
    /// 16 i32.
    unsafe fn load_int(at: *const i32) -> Self::Int;
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn sub(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn shift_left_5(a: Self::Int) -> Self::Int;
    /// To nearest.
    unsafe fn to_float(a: Self::Int) -> Self::Float;

    unsafe fn float(value: f32) -> Self::Float;
    /// 16 f32.
    unsafe fn load(at: *const f32) -> Self::Float;
    /// 16 f32.
    unsafe fn store(at: *mut f32, a: Self::Float);
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a * b`, rounded once.
    unsafe fn minus_fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// 16 half-precision numbers, widened.
    unsafe fn load_f16(at: *const u8) -> Self::Float;
    /// 16 bfloat16 numbers, widened.
    unsafe fn load_bf16(at: *const u8) -> Self::Float;

    /// 16 bytes of nibbles -> 32 entries of `table`: those of the low nibbles, then of the high ones.
    unsafe fn look_up(table: &[i8; 16], packed: *const u8, out: *mut u8);
    /// 16 columns of 256 bytes each -> 64 groups of 16 columns of 4 bytes.
    unsafe fn interleave(columns: *const [u8; 256], groups: *mut [u8; 64]);
}

/// Plain arrays, shaped like the 512-bit registers.
pub(crate) struct Emulated;

fn each<T: Copy + Default>(f: impl FnMut(usize) -> T) -> [T; 16] {
    std::array::from_fn(f)
}

// The methods are safe code but for reading through their pointers, for which the trait's contract speaks.
impl Lanes for Emulated {
    const ROWS: usize = 8;
    const DOTS: [usize; 3] = [8, 8, 4];
    const SIGNED_OFFSET: i32 = 128;
    const SIGNED_DOTS: usize = 8;
    type Weights = [[u8; 4]; 16];
    type SignedWeights = [[u8; 4]; 16];
    type Four = [i8; 4];
    type Part = [i32; 16];
    type Int = [i32; 16];
    type Float = [f32; 16];

    fn pack_scale(scale: i16) -> i32 {
        i32::from(scale)
    }

    unsafe fn weights(at: *const u8) -> Self::Weights {
        // SAFETY: 64 readable bytes, by the trait's contract.
        unsafe { at.cast::<[[u8; 4]; 16]>().read_unaligned() }
    }

    unsafe fn signed_weights(at: *const u8) -> Self::SignedWeights {
        // SAFETY: as `weights`.
        unsafe { Self::weights(at) }.map(|four| four.map(|w| w ^ 128))
    }

    unsafe fn four(at: *const i8) -> Self::Four {
        // SAFETY: 4 readable bytes, by the trait's contract.
        unsafe { at.cast::<[i8; 4]>().read_unaligned() }
    }

    unsafe fn first_dot(w: Self::Weights, x: Self::Four) -> Self::Part {
        // SAFETY: touches no memory.
        unsafe { Self::add_dot([0; 16], w, x) }
    }

    unsafe fn add_dot(part: Self::Part, w: Self::Weights, x: Self::Four) -> Self::Part {
        each(|i| part[i] + (0..4).map(|k| i32::from(w[i][k]) * i32::from(x[k])).sum::<i32>())
    }

    unsafe fn add_scaled(sum: Self::Int, part: Self::Part, scale: Self::Int) -> Self::Int {
        each(|i| sum[i] + part[i] * scale[i])
    }

    unsafe fn unscaled(part: Self::Part) -> Self::Int {
        part
    }

    unsafe fn add_signed_dot(sum: Self::Int, w: Self::SignedWeights, x: Self::Four) -> Self::Int {
        // SAFETY: touches no memory.
        unsafe { Self::add_dot(sum, w, x) }
    }

    unsafe fn first_signed_dot(w: Self::SignedWeights, x: Self::Four) -> Self::Part {
        // SAFETY: touches no memory.
        unsafe { Self::add_dot([0; 16], w, x) }
    }

    unsafe fn add_signed_part(part: Self::Part, w: Self::SignedWeights, x: Self::Four) -> Self::Part {
        // SAFETY: touches no memory.
        unsafe { Self::add_dot(part, w, x) }
    }

    unsafe fn add_pairs(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        let halves = |v: i32| (v as i16 as i32, v >> 16);
        each(|i| {
            let ((a0, a1), (b0, b1)) = (halves(a[i]), halves(b[i]));
            sum[i] + a0 * b0 + a1 * b1
        })
    }

    unsafe fn int(value: i32) -> Self::Int {
        [value; 16]
    }

    unsafe fn load_int(at: *const i32) -> Self::Int {
        // SAFETY: 16 readable numbers, by the trait's contract.
        unsafe { at.cast::<[i32; 16]>().read_unaligned() }
    }

    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int {
        each(|i| a[i] + b[i])
    }

    unsafe fn sub(a: Self::Int, b: Self::Int) -> Self::Int {
        each(|i| a[i] - b[i])
    }

    unsafe fn shift_left_5(a: Self::Int) -> Self::Int {
        a.map(|a| a << 5)
    }

    unsafe fn to_float(a: Self::Int) -> Self::Float {
        a.map(|a| a as f32)
    }

    unsafe fn float(value: f32) -> Self::Float {
        [value; 16]
    }

    unsafe fn load(at: *const f32) -> Self::Float {
        // SAFETY: 16 readable numbers, by the trait's contract.
        unsafe { at.cast::<[f32; 16]>().read_unaligned() }
    }

    unsafe fn store(at: *mut f32, a: Self::Float) {
        // SAFETY: room for 16 numbers, by the trait's contract.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(a) }
    }

    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        each(|i| a[i] * b[i])
    }

    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    unsafe fn minus_fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        each(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    unsafe fn load_f16(at: *const u8) -> Self::Float {
        // SAFETY: 32 readable bytes, by the trait's contract.
        let halves = unsafe { at.cast::<[[u8; 2]; 16]>().read_unaligned() };
        each(|i| half::f16::from_le_bytes(halves[i]).to_f32())
    }

    unsafe fn load_bf16(at: *const u8) -> Self::Float {
        // SAFETY: 32 readable bytes, by the trait's contract.
        let halves = unsafe { at.cast::<[[u8; 2]; 16]>().read_unaligned() };
        each(|i| half::bf16::from_le_bytes(halves[i]).to_f32())
    }

    unsafe fn look_up(table: &[i8; 16], packed: *const u8, out: *mut u8) {
        // SAFETY: 16 readable bytes and 32 writable ones, by the trait's contract.
        let (packed, out) = unsafe { (std::slice::from_raw_parts(packed, 16), std::slice::from_raw_parts_mut(out, 32)) };
        out.iter_mut().zip(tables::look_up(table, packed)).for_each(|(out, value)| *out = value as u8);
    }

    unsafe fn interleave(columns: *const [u8; 256], groups: *mut [u8; 64]) {
        // SAFETY: 16 readable columns and 64 writable groups, by the trait's contract.
        let (columns, groups) = unsafe { (std::slice::from_raw_parts(columns, 16), std::slice::from_raw_parts_mut(groups, 64)) };
        for (g, group) in groups.iter_mut().enumerate() {
            for (column, four) in columns.iter().zip(group.chunks_exact_mut(4)) {
                four.copy_from_slice(&column[4 * g..4 * g + 4]);
            }
        }
    }
}
