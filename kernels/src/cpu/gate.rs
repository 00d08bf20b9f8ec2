//! The activation functions of a gated feed-forward layer, element by element.
//!
//! One sequence of f32 operations whatever the registers, so that no instruction set and no position in a row changes a bit;
//! the exponential of the C library would be neither that nor fast.

use super::isa::Isa;
use crate::ops::linear::Activation;

/// `gates[i] = act(gates[i]) * ups[i]`.
pub(crate) fn combine(isa: Isa, act: Activation, gates: &mut [f32], ups: &[f32]) {
    match isa {
        Isa::Scalar | Isa::Emulated512 | Isa::Neon | Isa::I8mm => combine_body(act, gates, ups),
        // SAFETY: these sets are chosen only where the CPU has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => unsafe { combine_avx2(act, gates, ups) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => combine_body(act, gates, ups),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn combine_avx2(act: Activation, gates: &mut [f32], ups: &[f32]) {
    combine_body(act, gates, ups);
}

#[inline(always)]
fn combine_body(act: Activation, gates: &mut [f32], ups: &[f32]) {
    match act {
        Activation::Silu => gates.iter_mut().zip(ups).for_each(|(g, u)| *g = silu(*g) * u),
        Activation::GeluTanh => gates.iter_mut().zip(ups).for_each(|(g, u)| *g = gelu_tanh(*g) * u),
    }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016), as `x / (1 + e^(-2 sqrt(2/pi) (..)))`.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const MINUS_TWICE_ROOT: f32 = -std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
    let inner = (0.044_715 * x * x).mul_add(x, x);
    x / (1.0 + exp(MINUS_TWICE_ROOT * inner))
}

/// `e^x` to about 2 units in the last place; beyond -87 and 88 the value there. NaN gives some number: callers divide a NaN by it.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough bits that a multiple of it is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    // Taylor: |r| <= ln(2) / 2, so the first term left out is r^8 / 8! < 6e-9.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = r.mul_add(sum, coefficient);
    }
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127);
    sum * f32::from_bits((exponent << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.5e-7, "exp({x}) = {}, not {exact}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn gates_follow_their_formulas_on_every_instruction_set() {
        let x: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.037).chain([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]).collect();
        let ups = vec![1.0; x.len()];
        for act in [Activation::Silu, Activation::GeluTanh] {
            let mut plain = x.clone();
            combine(Isa::Scalar, act, &mut plain, &ups);
            for isa in Isa::available() {
                let mut other = x.clone();
                combine(isa, act, &mut other, &ups);
                assert!(plain.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())));
            }
            for (x, y) in x.iter().zip(&plain).take(6000) {
                let x = f64::from(*x);
                let exact = match act {
                    Activation::Silu => x / (1.0 + (-x).exp()),
                    Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
                };
                assert!((f64::from(*y) - exact).abs() <= 1e-6 * exact.abs() + 1e-6, "{act:?}({x}) = {y}, not {exact}");
            }
            assert!(plain[x.len() - 1].is_nan());
            assert_eq!(plain[x.len() - 3], f32::INFINITY);
        }
    }
}
