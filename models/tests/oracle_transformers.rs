//! Oracle 1: tiny random models of each family as `transformers` runs them (fixtures by `tests/oracles/make_fixtures.py`).
//! With f32 weights and an f32 cache: logits within 2e-3, the same greedy continuation of 64 tokens.

use std::path::PathBuf;

use candle_core::Device;
use kernels::KvDtype;
use kernels::ops::rope::RopeStyle;
use models::rope::{RopeParameters, RopeScaling, Yarn};
use models::testing::batch::{greedy, logits_of};
use models::{Gguf, Model};
use serde_json::Value;

const LOGIT_DIFFERENCE_MAX: f32 = 2e-3;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/oracles/fixtures").join(name)
}

fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(fixture(name)).expect("the fixtures are committed");
    serde_json::from_str(&text).expect("make_fixtures.py writes JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("an array").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn load(name: &str) -> Box<dyn Model> {
    let gguf = Gguf::open(&fixture(&format!("{name}.gguf"))).expect("a readable fixture");
    models::load(&gguf, &Device::Cpu).expect("a loadable fixture")
}

fn check(name: &str) {
    let mut model = load(name);
    let fixture_json = json(&format!("{name}.json"));
    let vocab = model.config().vocab;
    assert_eq!(Some(vocab as u64), fixture_json["vocab"].as_u64());
    let bytes = std::fs::read(fixture(&format!("{name}.logits.bin"))).expect("the fixtures are committed");
    let expected: Vec<f32> = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect();
    let mut expected = expected.chunks_exact(vocab);

    let mut largest: f32 = 0.0;
    for case in fixture_json["cases"].as_array().expect("cases") {
        let (prompt, continuation) = (ids(&case["prompt"]), ids(&case["greedy"]));
        let whole = [prompt.clone(), continuation.clone()].concat();
        let logits = logits_of(model.as_mut(), &whole, 512, KvDtype::F32).expect("a forward pass");
        for position in ids(&case["logit_positions"]) {
            let expected = expected.next().expect("logits of each kept position");
            for (id, (ours, theirs)) in logits.row(position as usize).iter().zip(expected).enumerate() {
                let difference = (ours - theirs).abs();
                assert!(
                    difference <= LOGIT_DIFFERENCE_MAX,
                    "{name}, prompt of {}, position {position}, token {id}: {ours} here, {theirs} there",
                    prompt.len()
                );
                largest = largest.max(difference);
            }
        }
        let ours = greedy(model.as_mut(), &prompt, continuation.len(), KvDtype::F32).expect("a forward pass");
        assert_eq!(continuation.len(), 64);
        assert_eq!(ours, continuation, "{name}, prompt of {}", prompt.len());
    }
    assert!(expected.next().is_none(), "{name}: logits are left over");
    println!("{name}: largest difference of a logit {largest:.2e}");
}

#[test]
fn llama_agrees() {
    check("llama");
}

#[test]
fn llama_with_frequency_factors_agrees() {
    check("llama3");
}

#[test]
fn qwen2_agrees() {
    check("qwen2");
}

#[test]
fn qwen3_agrees() {
    check("qwen3");
}

#[test]
fn qwen3moe_agrees() {
    check("qwen3moe");
}

/// Inverse frequencies of every kind of scaling, against those of `transformers` (which computes them in f32).
#[test]
fn scaled_frequencies_agree() {
    let cases = json("rope.json");
    for (name, case) in cases.as_object().expect("cases by name") {
        let given = &case["parameters"];
        let number = |key: &str| given[key].as_f64();
        let factor = number("factor").expect("every case has a factor");
        let scaling = match given["rope_type"].as_str().expect("a type") {
            "linear" => RopeScaling::Linear { factor },
            "yarn" => RopeScaling::Yarn(Yarn {
                factor,
                original_context: number("original_max_position_embeddings").expect("the original context") as usize,
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                extrapolation: 1.0,
            }),
            // Comes as a tensor of factors.
            "llama3" => RopeScaling::None,
            other => panic!("{other} is not tested"),
        };
        let rotary_dim = case["rotary_dim"].as_u64().expect("a size") as usize;
        let base = number("rope_theta").expect("a base");
        let numbers = |key: &str| -> Vec<f32> {
            case[key].as_array().expect("numbers").iter().map(|number| number.as_f64().expect("a number") as f32).collect()
        };
        let factors = (scaling == RopeScaling::None).then(|| numbers("plain_over_scaled"));
        let parameters = RopeParameters { rotary_dim, base, scaling, attention_factor: 1.0 };
        let rope = parameters.rope(RopeStyle::Neox, factors.as_deref());

        let expected = numbers("inverse_frequency");
        assert_eq!(rope.inverse_frequency.len(), expected.len());
        for (pair, (ours, theirs)) in rope.inverse_frequency.iter().zip(&expected).enumerate() {
            assert!((ours - theirs).abs() <= 2e-6 * theirs, "{name}, pair {pair}: {ours} here, {theirs} there");
        }
        let magnitude = case["attention_factor"].as_f64().expect("a factor") as f32;
        assert!((rope.attention_factor - magnitude).abs() <= 1e-6, "{name}: {} here, {magnitude} there", rope.attention_factor);
    }
}
