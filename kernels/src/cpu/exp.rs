//! Exponentials over eight lanes: the same bits from every instruction set.
//!
//! `2^f` on `[-1/2, 1/2]` is a degree-6 polynomial fitted by the Remez exchange with its constant term held at 1, so that
//! `exp2(0)` is exactly 1; its own error is 2.6e-9, below the rounding of f32.

use super::f32x8::Lanes;

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
    L::select_less(squared, L::splat(0.097_656_25), small, large)
}

/// [`exp2`] of one value.
#[inline(always)]
pub fn exp2_one<L: Lanes>(x: f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    // SAFETY: the array holds 8 values.
    unsafe { L::store(lanes.as_mut_ptr(), exp2::<L>(L::splat(x))) };
    lanes[0]
}

#[inline(always)]
fn exp2_fraction<L: Lanes>(f: L::V) -> L::V {
    let mut y = L::splat(EXP2[5]);
    for coefficient in [EXP2[4], EXP2[3], EXP2[2], EXP2[1], EXP2[0], 1.0] {
        y = L::fma(y, f, L::splat(coefficient));
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::f32x8::{Kernel, run};
    use crate::cpu::isa::Isa;

    #[derive(Debug, Clone, Copy)]
    enum Function {
        Exp2,
        Exp,
        Tanh,
    }

    struct Map<'a> {
        function: Function,
        values: &'a mut [f32],
    }

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self) {
            for chunk in self.values.chunks_exact_mut(8) {
                // SAFETY: the chunk holds 8 values.
                unsafe {
                    let x = L::load(chunk.as_ptr());
                    let y = match self.function {
                        Function::Exp2 => exp2::<L>(x),
                        Function::Exp => exp::<L>(x),
                        Function::Tanh => tanh::<L>(x),
                    };
                    L::store(chunk.as_mut_ptr(), y);
                }
            }
        }
    }

    /// The function of `x` (a multiple of 8 values), the same from every instruction set.
    fn map(function: Function, x: &[f32]) -> Vec<f32> {
        let on = |isa| {
            let mut values = x.to_vec();
            run(isa, Map { function, values: &mut values });
            values
        };
        let scalar = on(Isa::Scalar);
        for isa in Isa::available() {
            for (i, (a, b)) in on(isa).iter().zip(&scalar).enumerate() {
                assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{function:?}({}) on {isa}: {a} and {b}", x[i]);
            }
        }
        scalar
    }

    fn check(function: Function, from: f32, to: f32, relative: f64, exact: fn(f64) -> f64) {
        let count = 50_000;
        let x: Vec<f32> = (0..count).map(|i| from + (to - from) * (i as f32 / count as f32)).collect();
        for (x, y) in x.iter().zip(map(function, &x)) {
            let exact = exact(f64::from(*x));
            assert!((f64::from(y) - exact).abs() <= relative * exact.abs(), "{function:?}({x}) = {y}, not {exact}");
        }
    }

    #[test]
    fn errors_are_as_stated() {
        check(Function::Exp2, -126.0, 127.0, 1.5e-7, f64::exp2);
        check(Function::Exp2, -1.0, 0.0, 1.5e-7, f64::exp2);
        check(Function::Exp, -87.3, 88.3, 1.5e-7, f64::exp);
        check(Function::Exp, -1.0, 1.0, 1.5e-7, f64::exp);
        check(Function::Tanh, -20.0, 20.0, 5e-7, f64::tanh);
        check(Function::Tanh, -0.5, 0.5, 5e-7, f64::tanh);
        check(Function::Tanh, 1e-30, 1e-3, 5e-7, f64::tanh);
    }

    #[test]
    fn the_edges_are_exact() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let y = map(Function::Exp2, &[0.0, -0.0, -inf, -127.0, -1e30, nan, 1.0, -126.0]);
        assert_eq!(y[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert!(y[5].is_nan());
        assert_eq!(y[6..], [2.0, f32::MIN_POSITIVE]);
        let y = map(Function::Exp, &[0.0, -inf, inf, -88.0, 89.0, 1e30, -1e30, nan]);
        assert_eq!(y[..7], [1.0, 0.0, inf, 0.0, inf, inf, 0.0]);
        assert!(y[7].is_nan());
        let y = map(Function::Tanh, &[0.0, inf, -inf, 50.0, -50.0, 1e-30, 100.0, nan]);
        assert_eq!(y[..7], [0.0, 1.0, -1.0, 1.0, -1.0, 1e-30, 1.0]);
        assert!(y[7].is_nan());
    }
}
