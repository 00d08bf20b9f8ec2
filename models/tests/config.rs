//! Files that describe no model this build can run: each is refused by name, before anything is allocated.

use std::sync::Arc;

use candle_core::Device;
use kernels::{GgmlType, KvDtype, SharedBytes};
use models::gguf::writer::{Entry, GgufWriter};
use models::testing::random_model::{Mix, RandomModel};
use models::{Family, Gguf, Hyperparameters, KvCache, MemoryEstimate, StepSize};

fn tiny(family: Family) -> GgufWriter {
    RandomModel::tiny(family, Mix::All(GgmlType::Q4K), 1).writer()
}

fn open(writer: &GgufWriter) -> Gguf {
    Gguf::from_bytes(SharedBytes::new(Arc::new(writer.to_bytes())), "m.gguf").expect("a well-formed file")
}

/// The error of loading `writer`'s file.
fn refusal(writer: &GgufWriter) -> String {
    match models::load(&open(writer), &Device::Cpu) {
        Ok(_) => panic!("the file loads"),
        Err(error) => error.to_string(),
    }
}

/// A tiny file of `family` with `key` set is refused with `expected` in the message.
fn refused_with(family: Family, key: &str, value: impl Into<Entry>, expected: &str) {
    let mut writer = tiny(family);
    writer.set(&format!("{}.{key}", family.architecture()), value);
    let message = refusal(&writer);
    assert!(message.contains(expected), "{key}: {message}");
    assert!(message.starts_with("m.gguf: ") && message.contains(key), "{key}: {message}");
}

fn hyper(writer: &GgufWriter, architecture: &str) -> Hyperparameters {
    let family = Family::ALL.into_iter().find(|family| family.architecture() == architecture).expect("a family");
    family.hyperparameters(&open(writer)).expect("a sane file")
}

#[test]
fn every_family_loads() {
    for family in Family::ALL {
        let model = models::load(&open(&tiny(family)), &Device::Cpu).expect("a tiny model loads");
        let config = model.config();
        assert_eq!(config.architecture, family.architecture());
        assert_eq!((config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim), (2, 256, 4, 2, 64));
        assert_eq!((config.vocab, config.context_max), (320, 4096));
    }
}

#[test]
fn unknown_architecture_names_the_known_ones() {
    let message = refusal(tiny(Family::Llama).set("general.architecture", "mamba"));
    assert_eq!(message, r#"m.gguf: unknown architecture "mamba"; this build knows llama, qwen2, qwen3, qwen3moe"#);
    let message = refusal(tiny(Family::Llama).unset("general.architecture"));
    assert_eq!(message, r#"m.gguf: metadata key "general.architecture" is missing"#);
}

#[test]
fn missing_keys_are_named() {
    let keys = [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ];
    for key in keys {
        let message = refusal(tiny(Family::Qwen2).unset(&format!("qwen2.{key}")));
        assert_eq!(message, format!("m.gguf: metadata key \"qwen2.{key}\" is missing"));
    }
}

#[test]
fn absurd_values_are_refused() {
    let family = Family::Qwen3;
    refused_with(family, "block_count", 1_000_000_000u32, "is 1000000000: it must lie between 1 and");
    refused_with(family, "block_count", 0u32, "is 0: it must lie between 1 and");
    refused_with(family, "block_count", -3i32, "should be a whole number, but is i32 -3");
    refused_with(family, "block_count", "two", "should be a whole number, but is string");
    refused_with(family, "context_length", 0u32, "it must lie between");
    refused_with(family, "context_length", u64::MAX, "it must lie between");
    refused_with(family, "embedding_length", u64::MAX, "it must lie between");
    refused_with(family, "feed_forward_length", 0u32, "it must lie between");
    refused_with(family, "attention.head_count", 0u32, "it must lie between");
    refused_with(family, "attention.head_count_kv", 0u32, "it must lie between");
    refused_with(family, "attention.head_count_kv", 3u32, "the 4 query heads cannot be shared out among them");
    refused_with(family, "attention.key_length", 1u32 << 20, "it must lie between");
    refused_with(family, "attention.key_length", 63u32, "an even number");
    refused_with(family, "attention.value_length", 32u32, "values of another length than keys");
    refused_with(family, "attention.layer_norm_rms_epsilon", f32::NAN, "between 0 and 1");
    refused_with(family, "attention.layer_norm_rms_epsilon", 0.0f32, "between 0 and 1");
    refused_with(family, "attention.scale", -1.0f32, "it must be positive");
    refused_with(family, "vocab_size", 321u32, "it must lie between 1 and 320");
    refused_with(family, "rope.freq_base", 0.0f32, "it must be a positive number");
    refused_with(family, "rope.freq_base", f32::INFINITY, "it must be a positive number");
    refused_with(family, "rope.freq_base", 0.5f32, "it must be above 1");
    refused_with(family, "rope.dimension_count", 128u32, "it must lie between 2 and 64");
    refused_with(family, "rope.dimension_count", 31u32, "rotation works on pairs");
}

#[test]
fn a_mixture_of_experts_must_make_sense() {
    let family = Family::Qwen3Moe;
    for key in ["expert_count", "expert_used_count", "expert_feed_forward_length"] {
        let message = refusal(tiny(family).unset(&format!("qwen3moe.{key}")));
        assert_eq!(message, format!("m.gguf: metadata key \"qwen3moe.{key}\" is missing"));
        refused_with(family, key, 0u32, "is 0: it must lie between 1 and");
        refused_with(family, key, u64::MAX, "it must lie between 1 and");
        refused_with(family, key, "many", "should be a whole number, but is string");
        refused_with(family, key, vec![8u32, 4], "differs from layer to layer (8 and 4)");
    }
    refused_with(family, "expert_used_count", 9u32, "is 9: there are 8 experts");
    refused_with(family, "expert_weights_norm", 1u32, "should be true or false");
    // Other kinds of mixtures.
    refused_with(family, "expert_shared_count", 1u32, "experts that every row uses");
    refused_with(family, "expert_shared_feed_forward_length", 512u32, "experts that every row uses");
    refused_with(family, "expert_weights_scale", 2.5f32, "scaled weights of experts");
    refused_with(family, "expert_gating_func", 2u32, "another way to choose experts");
    refused_with(family, "expert_group_count", 4u32, "experts in groups");
    refused_with(family, "leading_dense_block_count", 1u32, "layers without experts");
    let mut writer = tiny(family);
    writer.set("qwen3moe.expert_gating_func", 1u32).set("qwen3moe.expert_weights_scale", 1.0f32).set("qwen3moe.expert_shared_count", 0u32);
    writer.unset("qwen3moe.feed_forward_length");
    let experts = hyper(&writer, "qwen3moe").experts.expect("a mixture");
    assert_eq!((experts.count, experts.used, experts.renormalise), (8, 3, true));
    writer.set("qwen3moe.expert_weights_norm", false);
    assert!(!hyper(&writer, "qwen3moe").experts.expect("a mixture").renormalise);
    assert_eq!(hyper(&tiny(Family::Qwen3), "qwen3").experts, None);
}

#[test]
fn experts_must_have_the_shape_the_metadata_says() {
    let mut writer = tiny(Family::Qwen3Moe);
    let message = refusal(writer.set("qwen3moe.expert_count", 16u32));
    assert_eq!(message, r#"m.gguf: tensor "blk.0.ffn_gate_inp.weight" has the shape [256, 8], but the metadata says [256, 16]"#);
    let mut writer = tiny(Family::Qwen3Moe);
    let message = refusal(writer.set("qwen3moe.expert_feed_forward_length", 512u32));
    assert_eq!(message, r#"m.gguf: tensor "blk.0.ffn_gate_exps.weight" has the shape [256, 256, 8], but the metadata says [256, 512, 8]"#);
    let mut writer = tiny(Family::Qwen3Moe);
    writer.set("qwen3moe.block_count", 3u32);
    for (name, shape) in [("attn_norm", vec![256]), ("attn_q_norm", vec![64]), ("attn_k_norm", vec![64]), ("ffn_norm", vec![256])] {
        writer.tensor_f32(&format!("blk.2.{name}.weight"), &shape, &vec![1.0; shape[0]]);
    }
    for (name, rows) in [("attn_q", 256), ("attn_k", 128), ("attn_v", 128), ("attn_output", 256)] {
        writer.tensor_f32(&format!("blk.2.{name}.weight"), &[256, rows], &vec![0.0; 256 * rows]);
    }
    // A dense layer among the mixtures.
    let message = refusal(&writer);
    assert_eq!(message, r#"m.gguf: tensor "blk.2.ffn_gate_inp.weight" is missing"#);
    writer.tensor_f32("blk.2.ffn_gate_inp.weight", &[256, 8], &[0.0; 2048]);
    // Number 40 is NVFP4: 64 weights in 36 bytes.
    writer.tensor_unchecked("blk.2.ffn_gate_exps.weight", 40, &[256, 256, 8], vec![0; 8 * 256 * 256 / 64 * 36], None);
    let message = refusal(&writer);
    assert!(message.contains("blk.2.ffn_gate_exps.weight") && message.contains("NVFP4"), "{message}");
}

#[test]
fn experts_are_used_where_they_lie() {
    let gguf = open(&tiny(Family::Qwen3Moe));
    let name = "blk.1.ffn_down_exps.weight";
    let stack = gguf.stack(name, 8, (256, 256), &Device::Cpu).expect("experts");
    let all = gguf.tensor(name).expect("a tensor").bytes().as_slice();
    for (index, expert) in stack.iter().enumerate() {
        let bytes = expert.bytes().as_slice();
        assert_eq!((bytes.as_ptr(), bytes.len()), (all[index * 256 * 144..].as_ptr(), 256 * 144));
    }
    let error = gguf.stack(name, 7, (256, 256), &Device::Cpu).expect_err("eight are there").to_string();
    assert!(error.contains(name) && error.contains("294912 given"), "{error}");
}

#[test]
fn a_head_count_must_divide_where_no_head_length_is_given() {
    let mut writer = tiny(Family::Llama);
    writer.unset("llama.attention.key_length").unset("llama.attention.value_length").set("llama.attention.head_count", 6u32);
    let message = refusal(writer.set("llama.attention.head_count_kv", 6u32));
    assert!(message.contains("is 6: it does not divide the embedding length 256"), "{message}");
}

#[test]
fn what_would_be_computed_wrongly_is_refused() {
    let family = Family::Llama;
    refused_with(family, "expert_count", 8u32, "a mixture of experts, which this build does not know for the architecture llama");
    refused_with(family, "logit_scale", 0.25f32, "scaled logits");
    refused_with(family, "embedding_scale", 12.0f32, "scaled embeddings");
    refused_with(family, "residual_scale", 0.22f32, "scaled residuals");
    refused_with(family, "final_logit_softcapping", 30.0f32, "capped logits");
    refused_with(family, "attention.causal", false, "attention in both directions");
    refused_with(family, "attention.sliding_window_pattern", 6u32, "a sliding window in some layers only");
    refused_with(family, "rope.scaling.type", "longrope", "another way to scale positions");
    refused_with(family, "rope.dimension_sections", vec![16u32, 24, 24], "positions of several dimensions");
}

#[test]
fn neutral_values_are_no_reason_to_refuse() {
    let mut writer = tiny(Family::Llama);
    writer.set("llama.expert_count", 0u32).set("llama.logit_scale", 1.0f32).set("llama.residual_scale", 0.0f32);
    writer.set("llama.attention.causal", true).set("llama.attention.sliding_window", 4096u32).set("llama.vocab_size", 320u32);
    let hyper = hyper(&writer, "llama");
    assert_eq!(hyper.attention.window, None, "a window of the whole context is none");
}

#[test]
fn counts_may_be_given_for_each_layer_if_they_agree() {
    let mut writer = tiny(Family::Llama);
    writer.set("llama.attention.head_count_kv", vec![2u32, 2]).set("llama.feed_forward_length", vec![256i32, 256]);
    assert_eq!(hyper(&writer, "llama").model.kv_heads, 2);
    refused_with(Family::Llama, "attention.head_count_kv", vec![2u32, 1], "differs from layer to layer (2 and 1)");
    refused_with(Family::Llama, "attention.head_count_kv", vec![2u32], "an array of 1: the model has 2 layers");
    refused_with(Family::Llama, "attention.head_count", vec![1.5f32, 1.5], "should be a whole number, or one for each layer");
}

#[test]
fn scale_window_and_rope_are_read() {
    let mut writer = tiny(Family::Llama);
    assert_eq!(hyper(&writer, "llama").attention.scale, 0.125);
    writer.set("llama.attention.scale", 0.5f32).set("llama.attention.sliding_window", 128u32);
    writer.set("llama.rope.scaling.type", "yarn").set("llama.rope.scaling.factor", 4.0f32);
    writer.set("llama.rope.scaling.original_context_length", 1024u32).set("llama.rope.freq_base", 5e5f32);
    let read = hyper(&writer, "llama");
    assert_eq!((read.attention.scale, read.attention.window, read.rope.base), (0.5, Some(128), 5e5));
    let models::rope::RopeScaling::Yarn(yarn) = read.rope.scaling else { panic!("{:?}", read.rope.scaling) };
    assert_eq!((yarn.factor, yarn.original_context, yarn.beta_fast, yarn.beta_slow), (4.0, 1024, 32.0, 1.0));
}

#[test]
fn tensors_must_be_those_of_the_metadata() {
    let mut writer = tiny(Family::Qwen3);
    let message = refusal(writer.set("qwen3.feed_forward_length", 512u32));
    assert_eq!(message, r#"m.gguf: tensor "blk.0.ffn_gate.weight" has the shape [256, 256], but the metadata says [256, 512]"#);

    // A qwen2 file has biases, a qwen3 file norms of heads: neither passes for the other.
    let mut other = tiny(Family::Qwen2);
    for key in open(&other).metadata().map(|(key, _)| key.to_owned()).collect::<Vec<_>>() {
        if let (Some(rest), Some(value)) = (key.strip_prefix("qwen2."), open(&other).value(&key)) {
            match value.as_u64() {
                Some(count) => other.set(&format!("qwen3.{rest}"), count),
                None => other.set(&format!("qwen3.{rest}"), value.as_f64().expect("a number") as f32),
            };
        }
    }
    let message = refusal(other.set("general.architecture", "qwen3"));
    assert_eq!(message, r#"m.gguf: tensor "blk.0.attn_q_norm.weight" is missing"#);
}

#[test]
fn a_tensor_without_a_place_is_refused() {
    let mut writer = tiny(Family::Llama);
    writer.tensor_f32("blk.0.attn_sub_norm.weight", &[256], &[1.0; 256]).tensor_f32("blk.1.attn_sub_norm.weight", &[256], &[1.0; 256]);
    let message = refusal(&writer);
    assert!(message.contains(r#"tensor "blk.0.attn_sub_norm.weight" has no place in the architecture llama"#), "{message}");
    assert!(message.contains("and 1 more"), "{message}");

    // Frequencies once a layer are what old converters wrote; nobody reads them.
    let mut writer = tiny(Family::Llama);
    writer.tensor_f32("blk.0.attn_rot_embd.weight", &[32], &[1.0; 32]);
    models::load(&open(&writer), &Device::Cpu).expect("an old file loads");
}

#[test]
fn rotation_factors_that_divide_to_nonsense_are_refused() {
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut factors = [1.0; 32];
        factors[5] = bad;
        let mut writer = tiny(Family::Llama);
        let message = refusal(writer.tensor_f32("rope_freqs.weight", &[32], &factors));
        assert!(message.contains(r#"tensor "rope_freqs.weight" holds"#) && message.contains("at 5"), "{bad}: {message}");
    }
    let mut writer = tiny(Family::Llama);
    writer.tensor_f32("rope_freqs.weight", &[32], &[8.0; 32]);
    models::load(&open(&writer), &Device::Cpu).expect("factors of Llama 3 load");
}

#[test]
fn a_tensor_type_that_cannot_be_computed_is_refused_by_tensor_name() {
    let mut writer = tiny(Family::Llama);
    writer.set("llama.block_count", 3u32);
    // Number 40 is NVFP4: 64 weights in 36 bytes. The bias is optional, the norm comes first.
    writer.tensor_f32("blk.2.attn_norm.weight", &[256], &[1.0; 256]);
    writer.tensor_unchecked("blk.2.attn_q.weight", 40, &[256, 256], vec![0; 256 * 4 * 36], None);
    let message = refusal(&writer);
    assert!(message.contains("blk.2.attn_q.weight") && message.contains("NVFP4"), "{message}");
}

#[test]
fn memory_is_what_the_sums_say() {
    let writer = tiny(Family::Qwen3);
    let gguf = open(&writer);
    let step = StepSize { tokens: 512, logit_rows: 16 };
    let estimate = MemoryEstimate::of(&gguf, KvDtype::F16, step).expect("a sane file");
    assert_eq!(estimate.weight_bytes, gguf.tensor_bytes());
    // Keys and values, 2 layers, 2 heads of 64, 2 bytes.
    assert_eq!(estimate.kv_bytes_per_token, 2 * 2 * 2 * 64 * 2);
    assert_eq!(estimate.state_bytes_per_sequence, 0, "its layers see everything");
    // A window of 100 and steps of 512 touch 21 blocks of 32 tokens.
    let mut windowed = tiny(Family::Llama);
    windowed.set("llama.attention.sliding_window", 100u32);
    let windowed = MemoryEstimate::of(&open(&windowed), KvDtype::F16, step).expect("a sane file");
    assert_eq!((windowed.kv_bytes_per_token, windowed.state_bytes_per_sequence), (0, 21 * 32 * estimate.kv_bytes_per_token));
    let config = hyper(&writer, "qwen3").model;
    assert_eq!(KvCache::block_bytes(&config, KvDtype::F32), 2 * 32 * estimate.kv_bytes_per_token);
    // 34 bytes for 32 numbers, which f16 has in 64.
    assert_eq!(KvCache::block_bytes(&config, KvDtype::Q8_0) * 64, 34 * 32 * estimate.kv_bytes_per_token);
    assert!(estimate.scratch_bytes >= 512 * 4 * (2 * 256 + 2 * 256) + 16 * 320 * 4, "{estimate:?}");
    assert_eq!(estimate.total_bytes(1000), estimate.weight_bytes + estimate.scratch_bytes + 1000 * estimate.kv_bytes_per_token);
}

#[test]
fn a_mixture_needs_room_for_each_expert_a_row_uses() {
    let step = StepSize { tokens: 512, logit_rows: 1 };
    let scratch = |used: u32| {
        let mut writer = tiny(Family::Qwen3Moe);
        writer.set("qwen3moe.expert_used_count", used);
        MemoryEstimate::of(&open(&writer), KvDtype::F16, step).expect("a sane file").scratch_bytes
    };
    // An input row of 256 and an inner row of 256 in f32, and the latter quantised.
    assert_eq!(scratch(8) - scratch(7), 512 * (4 * 512 + 288));
}

#[test]
fn a_cache_beyond_u32_slots_is_refused() {
    let config = hyper(&tiny(Family::Qwen3), "qwen3").model;
    let error = KvCache::new(&config, 1 << 27, KvDtype::F16, &Device::Cpu).expect_err("2^32 slots");
    assert!(error.to_string().contains("more than 4294967295 can be numbered"), "{error}");
}
