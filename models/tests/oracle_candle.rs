//! Oracle 2: candle-transformers' own quantized models on the same file, one sequence at a time.
//!
//! With f32 and f16 weights nothing is rounded but sums, so logits (of standard deviation 3) agree within 2e-3. With Q8_0 both
//! sides round activations to 8 bits, each in its own way, so the distributions are compared: see [`DIVERGENCE_MEAN_MAX`].

use std::io::Cursor;

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3};
use kernels::{GgmlType, KvDtype, SharedBytes};
use models::testing::batch::logits_of;
use models::testing::random_model::{Mix, RandomModel};
use models::{Family, Gguf};

const LOGIT_DIFFERENCE_MAX: f32 = 2e-3;
/// In nats. Candle rounds activations to 8 bits with one scale for 256 of them even for Q8_0 weights.
const DIVERGENCE_MEAN_MAX: f64 = 2e-3;
/// Across block edges, first as one prompt, then token by token.
const PROMPT_TOKENS: usize = 40;
const TOKENS: usize = 70;

enum Theirs {
    Llama(quantized_llama::ModelWeights),
    Qwen2(quantized_qwen2::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
}

impl Theirs {
    fn load(family: Family, bytes: &[u8]) -> Self {
        let mut reader = Cursor::new(bytes);
        let content = gguf_file::Content::read(&mut reader).expect("Candle reads our file");
        match family {
            Family::Llama => Self::Llama(quantized_llama::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).expect("a llama")),
            Family::Qwen2 => Self::Qwen2(quantized_qwen2::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).expect("a qwen2")),
            Family::Qwen3 => Self::Qwen3(quantized_qwen3::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).expect("a qwen3")),
        }
    }

    /// Logits after the last of `tokens`, of which the first stands at `position`.
    fn last_logits(&mut self, tokens: &[u32], position: usize) -> Vec<f32> {
        let input = Tensor::new(tokens, &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("a tensor");
        let logits = match self {
            Self::Llama(model) => model.forward(&input, position),
            Self::Qwen2(model) => model.forward(&input, position),
            Self::Qwen3(model) => model.forward(&input, position),
        };
        logits.and_then(|logits| logits.flatten_all()?.to_vec1()).expect("a forward pass")
    }
}

/// Our logits and theirs for the last prompt token and every one after it.
fn both(family: Family, ty: GgmlType) -> Vec<(Vec<f32>, Vec<f32>)> {
    // Candle's qwen3 rounds its rotation table to f16 unless told otherwise.
    let bytes = RandomModel::tiny(family, Mix::All(ty), 3).writer().set("general.dtype", 0u32).to_bytes();
    let mut theirs = Theirs::load(family, &bytes);
    let gguf = Gguf::from_bytes(SharedBytes::new(std::sync::Arc::new(bytes)), "tiny.gguf").expect("a readable file");
    let mut ours = models::load(&gguf, &Device::Cpu).expect("a loadable file");
    let vocab = ours.config().vocab;
    let tokens: Vec<u32> = (0..TOKENS).map(|index| ((index * index * 31 + index * 7 + 5) % vocab) as u32).collect();

    let logits = logits_of(ours.as_mut(), &tokens, 512, KvDtype::F32).expect("a forward pass");
    (PROMPT_TOKENS - 1..TOKENS)
        .map(|last| {
            let first = if last == PROMPT_TOKENS - 1 { 0 } else { last };
            (logits.row(last).to_vec(), theirs.last_logits(&tokens[first..=last], first))
        })
        .collect()
}

fn check_logits(family: Family, ty: GgmlType) {
    let mut largest: f32 = 0.0;
    for (index, (ours, theirs)) in both(family, ty).iter().enumerate() {
        assert_eq!(ours.len(), theirs.len());
        for (id, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            let difference = (ours - theirs).abs();
            assert!(
                difference <= LOGIT_DIFFERENCE_MAX,
                "{family:?} {ty:?}, position {}, token {id}: {ours} here, {theirs} there",
                PROMPT_TOKENS - 1 + index
            );
            largest = largest.max(difference);
        }
    }
    println!("{family:?} {ty:?}: largest difference of a logit {largest:.2e}");
}

fn check_distributions(family: Family, ty: GgmlType) {
    let pairs = both(family, ty);
    let mean = pairs.iter().map(|(ours, theirs)| divergence(theirs, ours)).sum::<f64>() / pairs.len() as f64;
    println!("{family:?} {ty:?}: mean divergence {mean:.2e}");
    assert!(mean <= DIVERGENCE_MEAN_MAX, "{family:?} {ty:?}: mean divergence {mean:.2e}");
}

/// Kullback-Leibler divergence of the distribution of `ours` from that of `theirs`, in nats.
fn divergence(theirs: &[f32], ours: &[f32]) -> f64 {
    let (theirs, ours) = (log_softmax(theirs), log_softmax(ours));
    theirs.iter().zip(&ours).map(|(theirs, ours)| theirs.exp() * (theirs - ours)).sum()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    logits.iter().map(|logit| f64::from(logit - largest) - sum.ln()).collect()
}

#[test]
fn f32_agrees() {
    Family::ALL.into_iter().for_each(|family| check_logits(family, GgmlType::F32));
}

#[test]
fn f16_agrees() {
    Family::ALL.into_iter().for_each(|family| check_logits(family, GgmlType::F16));
}

#[test]
fn q8_0_agrees() {
    Family::ALL.into_iter().for_each(|family| check_distributions(family, GgmlType::Q8_0));
}
