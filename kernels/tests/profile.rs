//! What a recorded step says of ops of known shapes.

use candle_core::Device;
use kernels::ops::attention::{AttentionSpec, kv_write_, paged_attention};
use kernels::ops::linear::{Activation, ffn_gated, linear, linear_add_, linear_multi};
use kernels::profile::{self, Cost, Key, Op};
use kernels::{GgmlType, KvDtype, KvLayer, LogitRows, StepBuilder};

use crate::support::{rows, weight};

/// Recording is the process's: this is the one test that turns it on, and other tests begin no step.
#[test]
fn a_step_is_the_sum_of_its_ops() {
    let (query, value) = (weight(GgmlType::Q4K, 64, 256, 1), weight(GgmlType::Q6K, 32, 256, 2));
    let (gate, up) = (weight(GgmlType::Q8_0, 288, 256, 3), weight(GgmlType::Q8_0, 288, 256, 4));
    let down = weight(GgmlType::F16, 256, 288, 5);
    let spec = AttentionSpec { scale: 1.0, heads: 4, kv_heads: 2, head_dim: 16, window: None, softcap: None, sinks: None };
    let layer = KvLayer::new(2, 2, 16, KvDtype::F16, &Device::Cpu).expect("a small cache");
    let mut builder = StepBuilder::new();
    builder.push(0, 5, &[1, 0], LogitRows::Last).expect("fits");
    let step = builder.finish();
    let run = || {
        let x = rows(5, 256, 6);
        let outputs = linear_multi(&x, &[(&query, None), (&value, None)]).expect("shapes fit");
        kv_write_(&layer, &outputs[1], &outputs[1], &step).expect("shapes fit");
        paged_attention(&outputs[0], &layer, &step, &spec).expect("shapes fit");
        let inner = ffn_gated(&x, &gate, &up, Activation::Silu).expect("shapes fit");
        linear_add_(&x, &inner, &down, None).expect("shapes fit");
        linear(&x, &query, None).expect("shapes fit");
    };
    run();
    drop(profile::step(5));
    assert!(profile::take().is_empty(), "nothing is recorded unasked");

    profile::record(true);
    for _ in 0..2 {
        let _timer = profile::step(5);
        run();
    }
    run();
    profile::record(false);
    drop(profile::step(5));
    let recorded = profile::take();
    assert_eq!(recorded.keys().collect::<Vec<_>>(), [&5]);
    let steps = &recorded[&5];
    assert_eq!(steps.steps, 2, "ops outside of a recorded step do not count");

    let expected = |op, detail: &str, cost: Cost| {
        let totals = steps.ops.get(&Key { op, detail: detail.to_owned() }).unwrap_or_else(|| panic!("{op} {detail} in {:?}", steps.ops));
        let twice = Cost { bytes: 2 * cost.bytes, int8_operations: 2 * cost.int8_operations, float_operations: 2 * cost.float_operations };
        assert_eq!((totals.calls, totals.cost), (2, twice), "{op} {detail}");
        assert!(totals.seconds > 0.0, "{op} {detail}");
    };
    let (bytes, int8) = (144 * 64 + 210 * 32, 2 * 5 * 256 * 96);
    expected(Op::LinearMulti, "Q4_K+Q6_K 256 -> 96", Cost { bytes, int8_operations: int8, float_operations: 0 });
    expected(Op::FfnGated, "Q8_0 256 -> 576", Cost { bytes: 576 * 8 * 34, int8_operations: 2 * 5 * 256 * 576, float_operations: 0 });
    expected(Op::LinearAdd, "F16 288 -> 256", Cost { bytes: 2 * 288 * 256, int8_operations: 0, float_operations: 2 * 5 * 288 * 256 });
    expected(Op::Linear, "Q4_K 256 -> 64", Cost { bytes: 144 * 64, int8_operations: 2 * 5 * 256 * 64, float_operations: 0 });
    expected(Op::KvWrite, "", Cost { bytes: 5 * 2 * 2 * 16 * 2, ..Cost::default() });
    let seen = 1 + 2 + 3 + 4 + 5;
    expected(Op::PagedAttention, "", Cost { bytes: 5 * 2 * 2 * 16 * 2, int8_operations: 0, float_operations: 4 * 4 * 16 * seen });
    assert_eq!(steps.ops.len(), 6);
    assert!(steps.seconds_in_ops() <= steps.seconds, "{} s of ops in {} s of steps", steps.seconds_in_ops(), steps.seconds);
}
