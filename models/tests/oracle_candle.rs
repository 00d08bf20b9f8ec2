//! Oracle 2: candle-transformers' own quantized models on the same file, one sequence at a time.
//!
//! With f32 and f16 weights nothing is rounded but sums, so logits (of standard deviation 2.5) agree within 2e-3. With quantized
//! weights activations are rounded to 8 bits, so distributions are compared: with Candle's model of the same weights written out
//! as f32, which rounds nothing, and for Q8_0 with Candle's own quantized products.
//!
//! Candle's quantized mixture of experts needs CUDA; its plain one stands in, over the same weights widened to f32.

use std::collections::HashMap;
use std::io::Cursor;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3, qwen3_moe};
use kernels::{GgmlType, KvDtype, SharedBytes};
use models::testing::batch::logits_of;
use models::testing::random_model::{Mix, RandomModel};
use models::{Family, Gguf};

const LOGIT_DIFFERENCE_MAX: f32 = 2e-3;
/// In nats, from exact arithmetic on the same weights.
const DIVERGENCE_FROM_EXACT_MAX: f64 = 1e-3;
/// In nats. Both sides round, and Candle coarsely: one scale for 256 activations even where the weights have one for 32.
const DIVERGENCE_FROM_QUANTIZED_MAX: f64 = 1e-3;
/// Across block edges, first as one prompt, then token by token.
const PROMPT_TOKENS: usize = 58;
const TOKENS: usize = 70;

enum Theirs {
    Llama(quantized_llama::ModelWeights),
    Qwen2(quantized_qwen2::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
    Qwen3Moe(qwen3_moe::ModelForCausalLM),
}

impl Theirs {
    fn load(family: Family, bytes: &[u8]) -> Self {
        let mut reader = Cursor::new(bytes);
        let content = gguf_file::Content::read(&mut reader).expect("Candle reads our file");
        match family {
            Family::Llama => Self::Llama(quantized_llama::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).expect("a llama")),
            Family::Qwen2 => Self::Qwen2(quantized_qwen2::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).expect("a qwen2")),
            Family::Qwen3 => Self::Qwen3(quantized_qwen3::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).expect("a qwen3")),
            Family::Qwen3Moe => Self::Qwen3Moe(mixture_of(content, &mut reader)),
        }
    }

    /// Logits after the last of `tokens`, of which the first stands at `position`.
    fn last_logits(&mut self, tokens: &[u32], position: usize) -> Vec<f32> {
        let input = Tensor::new(tokens, &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("a tensor");
        let logits = match self {
            Self::Llama(model) => model.forward(&input, position),
            Self::Qwen2(model) => model.forward(&input, position),
            Self::Qwen3(model) => model.forward(&input, position),
            Self::Qwen3Moe(model) => model.forward(&input, position),
        };
        logits.and_then(|logits| logits.flatten_all()?.to_vec1()).expect("a forward pass")
    }
}

/// The file's mixture of experts as Candle's model of it for unquantized weights, under the names that one knows.
fn mixture_of(content: gguf_file::Content, reader: &mut Cursor<&[u8]>) -> qwen3_moe::ModelForCausalLM {
    let number = |key: &str| content.metadata[&format!("qwen3moe.{key}")].to_u32().expect("a count") as usize;
    let names: HashMap<&str, &str> = HashMap::from([
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate_inp", "mlp.gate"),
    ]);
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(reader, name, &Device::Cpu).and_then(|tensor| tensor.dequantize(&Device::Cpu)).expect("a tensor");
        let short = name.trim_end_matches(".weight");
        let theirs = match short.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            None => [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")]
                .into_iter()
                .find_map(|(ours, theirs)| (ours == short).then(|| theirs.to_owned()))
                .expect("a name of a qwen3moe"),
            Some((layer, part)) => match part.strip_prefix("ffn_").and_then(|rest| rest.strip_suffix("_exps")) {
                None => format!("model.layers.{layer}.{}", names[part]),
                Some(product) => {
                    for expert in 0..number("expert_count") {
                        let name = format!("model.layers.{layer}.mlp.experts.{expert}.{product}_proj.weight");
                        tensors.insert(name, tensor.get(expert).expect("as many experts as the metadata says"));
                    }
                    continue;
                }
            },
        };
        tensors.insert(format!("{theirs}.weight"), tensor);
    }
    let config = qwen3_moe::Config {
        vocab_size: content.tensor_infos["token_embd.weight"].shape.dims()[0],
        hidden_size: number("embedding_length"),
        intermediate_size: number("feed_forward_length"),
        num_hidden_layers: number("block_count"),
        num_attention_heads: number("attention.head_count"),
        head_dim: number("attention.key_length"),
        attention_bias: false,
        num_key_value_heads: number("attention.head_count_kv"),
        max_position_embeddings: number("context_length"),
        sliding_window: None,
        max_window_layers: 0,
        tie_word_embeddings: false,
        rope_theta: f64::from(content.metadata["qwen3moe.rope.freq_base"].to_f32().expect("a number")),
        rms_norm_eps: f64::from(content.metadata["qwen3moe.attention.layer_norm_rms_epsilon"].to_f32().expect("a number")),
        use_sliding_window: false,
        hidden_act: candle_nn::Activation::Silu,
        decoder_sparse_step: 1,
        moe_intermediate_size: number("expert_feed_forward_length"),
        num_experts_per_tok: number("expert_used_count"),
        num_experts: number("expert_count"),
        norm_topk_prob: true,
    };
    qwen3_moe::ModelForCausalLM::new(&config, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).expect("a qwen3moe")
}

/// A tiny model with an output layer of its own. Candle's qwen3 rounds its rotation table to f16 unless told otherwise.
fn file(family: Family, mix: Mix) -> Vec<u8> {
    let model = RandomModel { tied: false, ..RandomModel::tiny(family, mix, 3) };
    model.writer().set("general.dtype", 0u32).to_bytes()
}

/// Our logits and theirs for the last prompt token and every one after it.
fn both(family: Family, our_mix: Mix, their_mix: Mix) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut theirs = Theirs::load(family, &file(family, their_mix));
    let bytes = file(family, our_mix);
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
    for (index, (ours, theirs)) in both(family, Mix::All(ty), Mix::All(ty)).iter().enumerate() {
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

fn check_distributions(family: Family, ours: Mix, theirs: Mix, divergence_max: f64) {
    let pairs = both(family, ours, theirs);
    let mean = pairs.iter().map(|(ours, theirs)| divergence(theirs, ours)).sum::<f64>() / pairs.len() as f64;
    println!("{family:?}, {ours:?} here, {theirs:?} there: mean divergence {mean:.2e}");
    assert!(mean <= divergence_max, "{family:?}, {ours:?} here, {theirs:?} there: mean divergence {mean:.2e}");
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
fn quantized_weights_are_close_to_exact_arithmetic() {
    let common = [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4K, GgmlType::Q5K, GgmlType::Q6K];
    for family in Family::ALL {
        for ty in common {
            check_distributions(family, Mix::All(ty), Mix::AsF32(ty), DIVERGENCE_FROM_EXACT_MAX);
        }
    }
    // What a type does to a product does not depend on the family.
    for ty in GgmlType::COMPUTED.into_iter().filter(|ty| ty.block_size() > 1 && !common.contains(ty)) {
        check_distributions(Family::Qwen2, Mix::All(ty), Mix::AsF32(ty), DIVERGENCE_FROM_EXACT_MAX);
    }
}

#[test]
fn q8_0_agrees() {
    for family in Family::ALL {
        let mix = Mix::All(GgmlType::Q8_0);
        check_distributions(family, mix, mix, DIVERGENCE_FROM_QUANTIZED_MAX);
    }
}

#[test]
fn tied_output_layers_agree() {
    let tied = |mix| RandomModel { tied: true, ..RandomModel::tiny(Family::Qwen2, mix, 3) }.writer().to_bytes();
    let bytes = tied(Mix::All(GgmlType::F32));
    let mut theirs = Theirs::load(Family::Qwen2, &bytes);
    let gguf = Gguf::from_bytes(SharedBytes::new(std::sync::Arc::new(bytes)), "tied.gguf").expect("a readable file");
    let mut ours = models::load(&gguf, &Device::Cpu).expect("a loadable file");
    let tokens: Vec<u32> = (0..50).collect();
    let logits = logits_of(ours.as_mut(), &tokens, 512, KvDtype::F32).expect("a forward pass");
    let expected = theirs.last_logits(&tokens, 0);
    let largest = logits.row(49).iter().zip(&expected).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
    assert!(largest <= LOGIT_DIFFERENCE_MAX, "largest difference of a logit {largest:.2e}");
}
