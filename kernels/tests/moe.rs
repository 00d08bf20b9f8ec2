//! Mixtures of experts: against the reference, against themselves made of single rows and `linear`, and at the edges.

use std::num::NonZeroUsize;

use candle_core::{Device, Tensor};
use kernels::cpu::isa::{Isa, with_isa};
use kernels::cpu::pool::with_threads;
use kernels::ops::linear::{Activation, ffn_gated, linear};
use kernels::ops::moe::{Experts, MoeSpec, Routes, experts_add_, moe_ffn_add_, route};
use kernels::{GgmlType, SharedBytes, Weight, quantize, reference};
use proptest::prelude::*;

use crate::support::{Random, assert_bits, rows, values, weight};

/// The shape of a layer.
#[derive(Debug, Clone, Copy)]
struct Shape {
    count: usize,
    hidden: usize,
    width: usize,
}

/// Two chunks of 256 wide, so that orders matter, and outputs that are no multiple of a tile.
const SHAPE: Shape = Shape { count: 5, hidden: 512, width: 256 };

fn bytes(ty: GgmlType, count: usize, deviation: f32, seed: u64) -> SharedBytes {
    let numbers: Vec<f32> = Random::new(seed).normals(count).into_iter().map(|x| deviation * x).collect();
    quantize::quantize(ty, &numbers).expect("whole blocks of finite numbers").into()
}

/// `count` matrices whose products have the magnitude of their input.
fn stack(ty: GgmlType, count: usize, rows: usize, cols: usize, seed: u64) -> Vec<Weight> {
    let bytes = bytes(ty, count * rows * cols, 1.0 / (cols as f32).sqrt(), seed);
    Weight::stack(&bytes, ty, count, (rows, cols), &Device::Cpu).expect("sizes fit")
}

/// Gate, up and down of the given types, and a router in f32.
fn mixture(types: [GgmlType; 3], shape: Shape, seed: u64) -> (Weight, Experts) {
    let Shape { count, hidden, width } = shape;
    let experts = Experts::new(
        stack(types[0], count, width, hidden, seed),
        stack(types[1], count, width, hidden, seed + 1),
        stack(types[2], count, hidden, width, seed + 2),
    );
    let router = bytes(GgmlType::F32, count * hidden, 2.0 / (hidden as f32).sqrt(), seed + 3);
    (Weight::new(router, GgmlType::F32, count, hidden, &Device::Cpu).expect("sizes fit"), experts.expect("they fit together"))
}

fn spec(used: usize) -> MoeSpec {
    MoeSpec { used, renormalise: true, activation: Activation::Silu }
}

/// The op on a residual of zeros.
fn op(x: &Tensor, (router, experts): &(Weight, Experts), spec: MoeSpec) -> Vec<f32> {
    let residual = x.zeros_like().unwrap();
    moe_ffn_add_(&residual, x, router, experts, spec).unwrap();
    values(&residual)
}

fn on(isa: Isa, threads: usize, x: &Tensor, mixture: &(Weight, Experts)) -> Vec<f32> {
    let threads = NonZeroUsize::new(threads).expect("at least the caller");
    with_threads(threads, || with_isa(isa, || op(x, mixture, spec(3))))
}

#[test]
fn the_reference_is_the_same_mixture() {
    for ty in GgmlType::COMPUTED.into_iter().filter(|ty| quantize::can_quantize(*ty)) {
        let mixture = mixture([ty; 3], SHAPE, 41);
        for (count, renormalise, activation) in
            [(1, true, Activation::Silu), (37, true, Activation::GeluTanh), (6, false, Activation::Silu)]
        {
            let x = rows(count, SHAPE.hidden, 40);
            let spec = MoeSpec { used: 3, renormalise, activation };
            let plain = values(&reference::moe::moe_ffn(&x, &mixture.0, &mixture.1, spec).unwrap());
            let fast = op(&x, &mixture, spec);
            // Activations of eight bits in three products, those between gate and down with a long tail; in f32 only the order of
            // sums differs. A wrong expert or a wrong row would be off by more than the outputs themselves.
            let (usual, largest) = if ty.block_size() == 1 { (1e-6, 2e-5) } else { (0.04, 0.3) };
            let differences: Vec<f32> = fast.iter().zip(&plain).map(|(fast, plain)| fast - plain).collect();
            let (error, size) = (rms(&differences), rms(&plain));
            assert!(error <= usual * size, "{ty}, {count} rows: an error of {error} in outputs of {size}");
            let worst = differences.iter().fold(0.0f32, |a, d| a.max(d.abs()));
            assert!(worst <= largest * size, "{ty}, {count} rows: an error of {worst} in outputs of {size}");
        }
    }
}

fn rms(values: &[f32]) -> f32 {
    (values.iter().map(|y| y * y).sum::<f32>() / values.len() as f32).sqrt()
}

/// The definition: each row alone, each of its experts by `linear` and `ffn_gated`, in ascending order of the experts.
#[test]
fn the_sum_is_that_of_single_products_in_a_fixed_order() {
    let odd = [Shape { count: 9, hidden: 96, width: 160 }, Shape { count: 4, hidden: 37, width: 29 }];
    for (types, shape) in [
        ([GgmlType::Q4K, GgmlType::Q4K, GgmlType::Q6K], SHAPE),
        ([GgmlType::Q8_0, GgmlType::Q5K, GgmlType::Q4_0], SHAPE),
        ([GgmlType::Q8_0, GgmlType::F16, GgmlType::Q4_0], odd[0]),
        ([GgmlType::BF16, GgmlType::F32, GgmlType::F16], odd[1]),
    ] {
        let (router, experts) = mixture(types, shape, 50);
        let (x, residual) = (rows(19, shape.hidden, 51), rows(19, shape.hidden, 52));
        let before = values(&residual);
        moe_ffn_add_(&residual, &x, &router, &experts, spec(4)).unwrap();
        let after = values(&residual);
        for row in 0..19 {
            let x = x.narrow(0, row, 1).unwrap();
            let routes = route(&linear(&x, &router, None).unwrap(), 4, true).unwrap();
            let mut chosen: Vec<(u32, f32)> = routes.experts().iter().copied().zip(routes.weights().iter().copied()).collect();
            chosen.sort_by_key(|(expert, _)| *expert);
            let mut sum = vec![0.0f32; shape.hidden];
            for (expert, weight) in chosen {
                let expert = expert as usize;
                let inner = ffn_gated(&x, &experts.gate()[expert], &experts.up()[expert], Activation::Silu).unwrap();
                let y = values(&linear(&inner, &experts.down()[expert], None).unwrap());
                sum.iter_mut().zip(&y).for_each(|(sum, y)| *sum += weight * y);
            }
            let at = row * shape.hidden..(row + 1) * shape.hidden;
            let by_hand: Vec<f32> = before[at.clone()].iter().zip(&sum).map(|(r, s)| r + s).collect();
            assert_bits(&after[at], &by_hand, &format!("{types:?} row {row}"));
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_of_a_row_in_company() {
    for types in [[GgmlType::Q4K, GgmlType::Q4K, GgmlType::Q6K], [GgmlType::Q8_0; 3], [GgmlType::F16; 3]] {
        let mixture = mixture(types, SHAPE, 60);
        let x = rows(70, SHAPE.hidden, 61);
        let all = on(Isa::Scalar, 1, &x, &mixture);
        let pools = Isa::available().into_iter().map(|isa| (isa, 1)).chain([2, 3, 5].map(|threads| (Isa::best(), threads)));
        for (isa, threads) in pools {
            assert_bits(&on(isa, threads, &x, &mixture), &all, &format!("{types:?} {isa} {threads} threads"));
            // A decode step, batched decode, a chunk: cut out of the middle.
            for (first, count) in [(0, 1), (69, 1), (33, 1), (5, 2), (11, 4), (20, 9), (3, 40)] {
                let some = on(isa, threads, &x.narrow(0, first, count).unwrap(), &mixture);
                let wanted = &all[first * SHAPE.hidden..(first + count) * SHAPE.hidden];
                assert_bits(&some, wanted, &format!("{types:?} {isa} {threads} threads, {count} rows from {first}"));
            }
        }
        // Another order of rows, and rows more than once.
        let order: Vec<u32> = (0..90).map(|i| (i * 31 % 70) as u32).collect();
        let shuffled = on(Isa::best(), 2, &x.index_select(&Tensor::new(order.as_slice(), &Device::Cpu).unwrap(), 0).unwrap(), &mixture);
        for (row, y) in order.iter().zip(shuffled.chunks_exact(SHAPE.hidden)) {
            assert_bits(y, &all[*row as usize * SHAPE.hidden..][..SHAPE.hidden], "another order");
        }
    }
}

/// More rows than an expert computes at a time (512), all of them for the same experts.
#[test]
fn a_favourite_expert_takes_all_rows() {
    let shape = Shape { count: 4, hidden: 256, width: 256 };
    let (_, experts) = mixture([GgmlType::Q4K; 3], shape, 70);
    let x = rows(1100, shape.hidden, 71);
    let favourite = Tensor::new(&[[1.0f32, 9.0, 2.0, 8.0]], &Device::Cpu).unwrap();
    let routes = |rows| route(&favourite.broadcast_as((rows, 4)).unwrap(), 2, true).unwrap();
    let sum = |x: &Tensor, routes: &Routes| {
        let residual = x.zeros_like().unwrap();
        experts_add_(&residual, x, routes, &experts, Activation::Silu).unwrap();
        values(&residual)
    };
    let all = sum(&x, &routes(1100));
    for row in [0, 511, 512, 513, 1024, 1099] {
        let alone = sum(&x.narrow(0, row, 1).unwrap(), &routes(1));
        assert_bits(&alone, &all[row * shape.hidden..(row + 1) * shape.hidden], &format!("row {row}"));
    }
}

#[test]
fn a_sick_row_stays_alone() {
    let mixture = mixture([GgmlType::Q4K; 3], SHAPE, 80);
    let x = rows(6, SHAPE.hidden, 81);
    let healthy = op(&x, &mixture, spec(3));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut sick = values(&x);
        sick[2 * SHAPE.hidden + 300] = bad;
        let y = op(&Tensor::from_vec(sick, (6, SHAPE.hidden), &Device::Cpu).unwrap(), &mixture, spec(3));
        let row = 2 * SHAPE.hidden..3 * SHAPE.hidden;
        assert_bits(&y[..row.start], &healthy[..row.start], "rows before");
        assert_bits(&y[row.end..], &healthy[row.end..], "rows after");
        assert!(y[row].iter().all(|y| !y.is_finite()), "{bad} became a plausible number");
    }
}

#[test]
fn views_nothing_and_the_residual_itself() {
    let mixture = mixture([GgmlType::Q8_0; 3], SHAPE, 90);
    let wide = rows(5, SHAPE.hidden + 30, 91);
    let view = wide.narrow(1, 20, SHAPE.hidden).unwrap();
    assert_bits(&op(&view, &mixture, spec(2)), &op(&view.copy().unwrap(), &mixture, spec(2)), "a view");

    let x = rows(5, SHAPE.hidden, 92);
    let by_hand: Vec<f32> = values(&x).iter().zip(op(&x, &mixture, spec(2))).map(|(x, y)| x + y).collect();
    let whole = x.copy().unwrap();
    let middle = whole.narrow(0, 1, 3).unwrap();
    moe_ffn_add_(&middle, &middle, &mixture.0, &mixture.1, spec(2)).unwrap();
    let (whole, x) = (values(&whole), values(&x));
    assert_bits(&whole[..SHAPE.hidden], &x[..SHAPE.hidden], "the row before");
    assert_bits(&whole[SHAPE.hidden..4 * SHAPE.hidden], &by_hand[SHAPE.hidden..4 * SHAPE.hidden], "in place on itself");
    assert_bits(&whole[4 * SHAPE.hidden..], &x[4 * SHAPE.hidden..], "the row after");

    assert!(op(&rows(0, SHAPE.hidden, 93), &mixture, spec(2)).is_empty());
    assert_eq!(op(&rows(3, SHAPE.hidden, 93), &mixture, spec(5)).len(), 3 * SHAPE.hidden, "all experts");
}

#[test]
fn experts_are_windows_of_their_bytes() {
    let ty = GgmlType::Q4K;
    let all = bytes(ty, 3 * 40 * 256, 1.0, 95);
    let stack = Weight::stack(&all, ty, 3, (40, 256), &Device::Cpu).unwrap();
    for (index, weight) in stack.iter().enumerate() {
        assert_eq!(weight.bytes().as_slice().as_ptr(), all.as_slice()[index * 40 * 144..].as_ptr(), "nothing is copied");
        assert_eq!(weight.bytes().as_slice().len(), 40 * 144);
    }
    let message = |count, shape| Weight::stack(&all, ty, count, shape, &Device::Cpu).unwrap_err().to_string();
    assert_eq!(message(4, (40, 256)), "a Q4_K weight of 160 x 256 needs 23040 bytes, 17280 given");
    assert_eq!(message(2, (40, 256)), "a Q4_K weight of 80 x 256 needs 11520 bytes, 17280 given");
    assert!(message(3, (40, 255)).contains("not a multiple of the Q4_K block"));
    assert!(message(usize::MAX, (1 << 40, 256)).contains("needs"));
    assert!(message(2, (usize::MAX, 256)).contains("beyond any address space"));
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let ty = GgmlType::Q8_0;
    let refused = |gate, up, down| Experts::new(gate, up, down).unwrap_err().to_string();
    let fit = || (stack(ty, 3, 32, 64, 1), stack(ty, 3, 32, 64, 2), stack(ty, 3, 64, 32, 3));
    let (gate, up, down) = fit();
    assert!(refused(vec![], up.clone(), down.clone()).contains("without experts"));
    assert!(refused(gate.clone(), up[..2].to_vec(), down.clone()).contains("a mixture of 3 experts has 2 up matrices"));
    assert!(refused(gate.clone(), up.clone(), up.clone()).contains("the down matrix of expert 0 is 32 x 64, not 64 x 32"));
    let other = [&gate[..2], &[weight(GgmlType::F32, 32, 64, 4)]].concat();
    assert!(refused(other, up, down).contains("the gate matrix of expert 2 is F32, the first one Q8_0"));

    let (gate, up, down) = fit();
    let experts = Experts::new(gate, up, down).unwrap();
    let routes = |rows, count, used| route(&support_logits(rows, count), used, true);
    assert!(routes(2, 3, 0).unwrap_err().to_string().contains("0 of 3 experts"));
    assert!(routes(2, 3, 4).unwrap_err().to_string().contains("4 of 3 experts"));
    let add = |residual: &Tensor, x: &Tensor, routes: &Routes| {
        experts_add_(residual, x, routes, &experts, Activation::Silu).unwrap_err().to_string()
    };
    let two = routes(2, 3, 2).unwrap();
    assert!(add(&rows(2, 32, 1), &rows(2, 32, 1), &two).contains("rows of 32 F32 on Cpu meet experts of 64"));
    assert!(add(&rows(3, 64, 1), &rows(2, 64, 1), &two).contains("the residual is"));
    assert!(add(&rows(64, 2, 1).t().unwrap(), &rows(2, 64, 1), &two).contains("not contiguous"));
    assert!(add(&rows(3, 64, 1), &rows(3, 64, 1), &two).contains("routes of 2 rows to 3 experts meet 3 rows and 3"));
    assert!(add(&rows(2, 64, 1), &rows(2, 64, 1), &routes(2, 4, 2).unwrap()).contains("to 4 experts meet 2 rows and 3"));
    let router = weight(GgmlType::F32, 3, 32, 5);
    assert!(moe_ffn_add_(&rows(2, 64, 1), &rows(2, 64, 1), &router, &experts, spec(2)).is_err());
}

fn support_logits(count: usize, experts: usize) -> Tensor {
    rows(count, experts, 7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(5), ..ProptestConfig::default() })]
    /// Few different levels, so that there are many equals.
    #[test]
    fn routes_are_those_of_a_stable_sort(count in 1usize..20, share in 0.0f64..1.0, height in 0usize..80, levels in 1u64..30, seed in 0u64..1000) {
        let used = 1 + ((count - 1) as f64 * share) as usize;
        let mut random = Random::new(seed);
        let logits: Vec<f32> = (0..height * count).map(|_| (random.next() % levels) as f32 * 0.3).collect();
        let tensor = Tensor::from_vec(logits.clone(), (height, count), &Device::Cpu).unwrap();
        let routes = with_threads(NonZeroUsize::new(2).unwrap(), || route(&tensor, used, seed % 2 == 0)).unwrap();
        for (row, logits) in logits.chunks_exact(count).enumerate() {
            let mut order: Vec<u32> = (0..count as u32).collect();
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            prop_assert_eq!(&routes.experts()[row * used..(row + 1) * used], &order[..used]);
            let weights = &routes.weights()[row * used..(row + 1) * used];
            let exact = |expert: &u32| f64::from(logits[*expert as usize]).exp();
            let sum: f64 = if seed % 2 == 0 { order[..used].iter().map(exact).sum() } else { order.iter().map(exact).sum() };
            for (weight, expert) in weights.iter().zip(&order) {
                prop_assert!((f64::from(*weight) - exact(expert) / sum).abs() < 1e-6);
            }
        }
    }
}
