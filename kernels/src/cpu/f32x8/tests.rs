//! Every operation of every set this CPU has, on ordinary and on odd numbers, against plain code.

use super::*;

const ODD: [f32; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3.7,
    1e-40,
    -1e-40,
    1e-8,
    65_504.0,
    65_519.9,
    65_520.0,
    1e30,
    -1e30,
    f32::MAX,
    f32::MIN_POSITIVE,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    2049.0,
];

/// What all operations give on three times sixteen numbers: by name, bit by bit.
struct All<'a>(&'a [f32; 48]);

impl Kernel for All<'_> {
    type Output = Vec<(&'static str, Vec<f32>)>;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Self::Output {
        let mut results = Vec::new();
        let at = self.0.as_ptr();
        // SAFETY: 48 numbers are there, and room for what is stored.
        unsafe {
            let (a, b, c) = (L::load(at), L::load(at.add(16)), L::load(at.add(32)));
            let mut put = |name, v| {
                let mut values = vec![0.0; 8];
                L::store(values.as_mut_ptr(), v);
                results.push((name, values));
            };
            put("add", L::add(a, b));
            put("sub", L::sub(a, b));
            put("mul", L::mul(a, b));
            put("div", L::div(a, b));
            put("fma", L::fma(a, b, c));
            put("max", L::max(a, b));
            put("round", L::round(a));
            put("select_less", L::select_less(a, b, c, a));
            put("splat", L::splat(self.0[3]));
            let whole: [f32; 8] = std::array::from_fn(|i| [-126.0, 127.0, 0.0, -1.0, 1.0, 30.0, -77.0, 126.0][i]);
            put("power_of_two", L::power_of_two(L::load(whole.as_ptr())));
            put("sum_lanes", L::splat(L::sum_lanes(a)));
            put("sum32", L::splat(L::sum32([a, b, c, a])));
            // Of a NaN nothing is promised.
            let numbers: [f32; 8] = std::array::from_fn(|i| if self.0[i].is_nan() { -7.0 } else { self.0[i] });
            put("max_lane", L::splat(L::max_lane(L::load(numbers.as_ptr()))));
            let halves = self.0.map(f16::from_f32);
            put("load_f16", L::load_f16(halves.as_ptr().add(1)));
            let mut stored = [f16::ZERO; 8];
            L::store_f16(stored.as_mut_ptr(), a);
            put("store_f16", L::load(stored.map(f16::to_f32).as_ptr()));
            let bytes: [i8; 17] = std::array::from_fn(|i| [-128i8, 127, 0, -1, 5, -77, 100, 1][i % 8].wrapping_add(i as i8 / 8));
            put("load_i8", L::load_i8(bytes.as_ptr().add(1)));

            let (a, b, c) = (L::wide_load(at), L::wide_load(at.add(16)), L::wide_load(at.add(32)));
            let mut put = |name, v| {
                let mut values = vec![0.0; 16];
                L::wide_store(values.as_mut_ptr(), v);
                results.push((name, values));
            };
            put("wide_mul", L::wide_mul(a, b));
            put("wide_fma", L::wide_fma(a, b, c));
            put("wide_splat", L::wide_splat(self.0[5]));
            put("wide_load_f16", L::wide_load_f16(halves.as_ptr().add(1)));
            put("wide_load_i8", L::wide_load_i8(bytes.as_ptr().add(1)));
            L::prefetch(at.cast());
        }
        results
    }
}

#[test]
fn every_operation_gives_the_bits_of_plain_code() {
    for turn in 0..ODD.len() {
        // Every odd number meets others; two of the rows are ordinary.
        let numbers: [f32; 48] = std::array::from_fn(|i| match i / 16 {
            0 => ODD[(i + turn) % ODD.len()],
            1 => ODD[(7 * i + 5 * turn) % ODD.len()],
            _ => (i * 37 % 101) as f32 * 0.37 - turn as f32,
        });
        let plain = run(Isa::Scalar, All(&numbers));
        for isa in Isa::available() {
            for ((name, got), (_, wanted)) in run(isa, All(&numbers)).into_iter().zip(&plain) {
                for (lane, (got, wanted)) in got.iter().zip(wanted).enumerate() {
                    let same = got.to_bits() == wanted.to_bits() || (got.is_nan() && wanted.is_nan());
                    assert!(same, "{isa} {name}, lane {lane} of turn {turn}: {got:e}, not {wanted:e}");
                }
            }
        }
    }
}
