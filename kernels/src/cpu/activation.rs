//! Exponentials and the activation functions built on them: the same bits from every instruction set.
//!
//! `2^f` on `[-1/2, 1/2]` is a degree-6 polynomial fitted by the Remez exchange with its constant term held at 1, so that
//! `exp2(0)` is exactly 1; its own error is 2.6e-9, below the rounding of f32.

use super::lanes::{Kernel, LaneSet, Lanes, run};

/// `2^f - 1` over `f` on `[-1/2, 1/2]`, ascending powers.
const EXP2: [f32; 6] = [0.69314724, 0.24022652, 0.055503104, 0.009617693, 0.0013406643, 0.00015594678];
/// `log2(e)` as the sum of two f32.
const LOG2_E: (f32, f32) = (std::f32::consts::LOG2_E, 1.925_963e-8);

/// `2^x` for `x <= 127`; 0 below -126 (no subnormals), NaN stays NaN. Relative error below 1.5e-7.
#[inline(always)]
pub fn exp2<L: Lanes>(x: L::V) -> L::V {
    let n = L::round(x);
    let y = L::mul(exp2_fraction::<L>(L::sub(x, n)), L::power_of_two(n));
    L::select_less(x, L::splat(-126.0), L::splat(0.0), y)
}

/// `e^x`; 0 below -87.33, infinite above 88.37. Relative error below 1.5e-7.
#[inline(always)]
pub fn exp<L: Lanes>(x: L::V) -> L::V {
    let n = L::round(L::mul(x, L::splat(LOG2_E.0)));
    let f = L::fma(x, L::splat(LOG2_E.0), L::sub(L::splat(0.0), n));
    let f = L::fma(x, L::splat(LOG2_E.1), f);
    let y = L::mul(exp2_fraction::<L>(f), L::power_of_two(n));
    let y = L::select_less(L::splat(88.37), x, L::splat(f32::INFINITY), y);
    L::select_less(x, L::splat(-87.33), L::splat(0.0), y)
}

/// `tanh(x)`. Relative error below 5e-7.
#[inline(always)]
pub fn tanh<L: Lanes>(x: L::V) -> L::V {
    let large = L::sub(L::splat(1.0), L::div(L::splat(2.0), L::add(exp::<L>(L::add(x, x)), L::splat(1.0))));
    // Near 0 the difference above cancels; the odd Taylor series does not.
    let squared = L::mul(x, x);
    let mut series = L::splat(62.0 / 2835.0);
    for coefficient in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
        series = L::fma(series, squared, L::splat(coefficient));
    }
    let small = L::fma(L::mul(series, squared), x, x);
    L::select_less(squared, L::splat(0.0625), small, large)
}

/// `x / (1 + e^-x)` (SiLU, also called swish).
#[inline(always)]
pub fn silu<L: Lanes>(x: L::V) -> L::V {
    L::div(x, L::add(L::splat(1.0), exp::<L>(L::sub(L::splat(0.0), x))))
}

/// GELU by its tanh formula (Hendrycks and Gimpel 2016), `x/2 * (1 + tanh(u))` with `u = sqrt(2/pi) * (x + 0.044715 x^3)`,
/// written as `x / (1 + e^(-2u))`, which does not cancel.
#[inline(always)]
pub fn gelu_tanh<L: Lanes>(x: L::V) -> L::V {
    const MINUS_TWO_ROOT: f32 = -1.595_769_1;
    let cubic = L::fma(L::mul(L::splat(0.044_715), L::mul(x, x)), x, x);
    L::div(x, L::add(L::splat(1.0), exp::<L>(L::mul(cubic, L::splat(MINUS_TWO_ROOT)))))
}

/// `gate[i] = silu(gate[i]) * up[i]`. Panics when the lengths differ.
pub fn silu_times_(set: LaneSet, gate: &mut [f32], up: &[f32]) {
    run(set, GateTimes::<false> { gate, up });
}

/// `gate[i] = gelu_tanh(gate[i]) * up[i]`. Panics when the lengths differ.
pub fn gelu_tanh_times_(set: LaneSet, gate: &mut [f32], up: &[f32]) {
    run(set, GateTimes::<true> { gate, up });
}

/// Puts `f` of every element in its place: for the functions of this file, over a slice of any length.
pub fn map_(set: LaneSet, function: Function, values: &mut [f32]) {
    run(set, Map { function, values });
}

/// The functions of this file by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Exp2,
    Exp,
    Tanh,
    Silu,
    GeluTanh,
}

#[inline(always)]
fn exp2_fraction<L: Lanes>(f: L::V) -> L::V {
    let mut y = L::splat(EXP2[5]);
    for coefficient in [EXP2[4], EXP2[3], EXP2[2], EXP2[1], EXP2[0], 1.0] {
        y = L::fma(y, f, L::splat(coefficient));
    }
    y
}

struct GateTimes<'a, const GELU: bool> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl<const GELU: bool> Kernel for GateTimes<'_, GELU> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        assert_eq!(self.gate.len(), self.up.len(), "gate and up have the same length");
        let mut gates = self.gate.chunks_exact_mut(8);
        let mut ups = self.up.chunks_exact(8);
        for (gate, up) in (&mut gates).zip(&mut ups) {
            // SAFETY: both chunks hold 8 values.
            unsafe {
                let x = L::load(gate.as_ptr());
                let y = if GELU { gelu_tanh::<L>(x) } else { silu::<L>(x) };
                L::store(gate.as_mut_ptr(), L::mul(y, L::load(up.as_ptr())));
            }
        }
        let (gate, up) = (gates.into_remainder(), ups.remainder());
        let mut padded = [0.0f32; 8];
        padded[..gate.len()].copy_from_slice(gate);
        // SAFETY: the array holds 8 values.
        unsafe {
            let x = L::load(padded.as_ptr());
            L::store(padded.as_mut_ptr(), if GELU { gelu_tanh::<L>(x) } else { silu::<L>(x) });
        }
        for (i, gate) in gate.iter_mut().enumerate() {
            *gate = padded[i] * up[i];
        }
    }
}

struct Map<'a> {
    function: Function,
    values: &'a mut [f32],
}

impl Kernel for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for chunk in self.values.chunks_mut(8) {
            let mut padded = [0.0f32; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            // SAFETY: the array holds 8 values.
            unsafe {
                let x = L::load(padded.as_ptr());
                let y = match self.function {
                    Function::Exp2 => exp2::<L>(x),
                    Function::Exp => exp::<L>(x),
                    Function::Tanh => tanh::<L>(x),
                    Function::Silu => silu::<L>(x),
                    Function::GeluTanh => gelu_tanh::<L>(x),
                };
                L::store(padded.as_mut_ptr(), y);
            }
            chunk.copy_from_slice(&padded[..chunk.len()]);
        }
    }
}
