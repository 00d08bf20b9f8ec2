//! The generated files: sane weights in every type, the mix llama.cpp would choose, the shapes they claim.

use std::sync::Arc;

use kernels::{GgmlType, SharedBytes};
use models::testing::random_model::{Mix, RandomModel};
use models::testing::tiny_gguf;
use models::{Family, Gguf};

fn open(bytes: Vec<u8>) -> Gguf {
    Gguf::from_bytes(SharedBytes::new(Arc::new(bytes)), "random.gguf").expect("a well-formed file")
}

#[test]
fn weights_have_the_wanted_mean_and_deviation() {
    for ty in GgmlType::COMPUTED {
        let gguf = open(tiny_gguf(Family::Llama, 5, ty));
        let tensor = gguf.tensor("blk.1.ffn_up.weight").expect("a feed-forward layer");
        let mut weights = vec![0.0; 256 * 256];
        kernels::blocks::dequantize(ty, tensor.bytes().as_slice(), &mut weights);
        let mean = weights.iter().sum::<f32>() / weights.len() as f32;
        let deviation = (weights.iter().map(|weight| weight * weight).sum::<f32>() / weights.len() as f32).sqrt();
        // 1 / sqrt(256).
        assert!((deviation - 0.0625).abs() < 0.0625 * 0.03, "{ty:?}: deviation {deviation}");
        assert!(mean.abs() < 0.0625 * 0.03, "{ty:?}: mean {mean}");
    }
}

#[test]
fn the_same_seed_gives_the_same_file() {
    let bytes = tiny_gguf(Family::Qwen2, 5, GgmlType::Q4K);
    assert!(bytes == tiny_gguf(Family::Qwen2, 5, GgmlType::Q4K));
    assert!(bytes != tiny_gguf(Family::Qwen2, 6, GgmlType::Q4K));
}

#[test]
fn q4_k_m_is_the_usual_mix() {
    let model = RandomModel { layers: 24, ..RandomModel::tiny(Family::Qwen2, Mix::Q4KM, 0) };
    let gguf = open(model.writer().to_bytes());
    let type_of = |name: &str| gguf.tensor(name).expect("a tensor").ty;
    assert_eq!(type_of("token_embd.weight"), GgmlType::Q6K, "the tied table is the output layer, too");
    assert_eq!(type_of("blk.0.attn_q.weight"), GgmlType::Q4K);
    // 24 layers: the first and last eighth, and every third between.
    let better: Vec<usize> = (0..24).filter(|layer| type_of(&format!("blk.{layer}.ffn_down.weight")) == GgmlType::Q6K).collect();
    assert_eq!(better, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
    let better: Vec<usize> = (0..24).filter(|layer| type_of(&format!("blk.{layer}.attn_v.weight")) == GgmlType::Q6K).collect();
    assert_eq!(better.len(), 12);
}

#[test]
fn the_real_shapes_have_their_sizes() {
    // Weights as published: 1.54 billion (1.31 without the embedding table) and 0.6 billion (0.44).
    // The mixture by the sum: 2 x 151,936 x 2,048 and 12 x (32 x 3 x 768 x 2,048 + 2 x 2,048 x (4,096 + 512)).
    for (model, weights) in [
        (RandomModel::qwen2_5_1_5b(Mix::Q4KM, 0), 1.54e9),
        (RandomModel::qwen3_0_6b(Mix::Q4KM, 0), 0.596e9),
        (RandomModel::qwen3_moe_32x8(Mix::Q4KM, 0), 2.66e9),
    ] {
        let counted = model.weights() as f64;
        assert!((counted - weights).abs() < 0.01 * weights, "{}: {counted}", model.name);
    }
}

#[test]
fn the_tokenizer_covers_every_text() {
    for family in Family::ALL {
        let gguf = open(tiny_gguf(family, 5, GgmlType::Q8_0));
        let tokenizer = models::Tokenizer::from_gguf(&gguf).expect("a tokenizer");
        assert_eq!(tokenizer.vocab_size(), 320);
        let text = "Hello there, wörld: 東京 🦀\n\tfn main() {}\u{7}";
        let ids = tokenizer.encode(text, false).expect("ids");
        assert!(ids.len() < text.len(), "some merges apply");
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id, false).to_vec()).collect();
        assert_eq!(String::from_utf8(bytes).as_deref(), Ok(text));
        assert_eq!(tokenizer.token_name(tokenizer.eos().expect("an end of turn")), Some("<|im_end|>"));
        assert!(tokenizer.chat_template(None).expect("a template").contains("<|im_start|>"));
    }
}
