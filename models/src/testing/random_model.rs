//! Random-weight GGUF files of any size and shape, the real ones included, written as a stream.
//!
//! Block bytes are drawn at random with scales that give each matrix the standard deviation a trained one would need for sane
//! activations, so gigabytes take seconds and no quantiser runs.

use std::io::{self, Write};

use kernels::GgmlType;
use kernels::blocks::dequantize;

use super::blocks::{Random, write_random_blocks};
use super::vocabulary::Vocabulary;
use crate::families::Family;
use crate::gguf::writer::GgufWriter;

/// The shape of a model, and which types its matrices have.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomModel {
    pub name: String,
    pub family: Family,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Width of the feed-forward layer, or of each expert.
    pub feed_forward: usize,
    /// The family [`Family::Qwen3Moe`] has some, the others have none.
    pub experts: Option<Experts>,
    pub vocab: usize,
    pub context: usize,
    pub rope_base: f32,
    /// No output layer of its own.
    pub tied: bool,
    pub mix: Mix,
    pub seed: u64,
}

/// Experts there are, and how many of them each row uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    pub count: usize,
    pub used: usize,
}

/// Types of the matrices. Norms, biases and routers are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    All(GgmlType),
    /// The numbers of [`Mix::All`], written out as f32: what exact arithmetic makes of the same model.
    AsF32(GgmlType),
    /// llama.cpp's Q4_K_M: Q4_K, with Q6_K for the output layer and for half of `attn_v` and `ffn_down`.
    Q4KM,
}

/// What each layer adds to a residual of deviation 1, where the embedding has that. As in a trained model, and unlike in one whose
/// residual is all noise of layers, rounding errors then do not grow from layer to layer.
const BRANCH_GAIN: f32 = 0.5;
/// Standard deviation of a router's logits: a few experts count, and the last of them, which rounding may exchange for its
/// neighbour, counts little.
const ROUTER_DEVIATION: f32 = 3.0;
/// Standard deviation of the logits: neither flat nor certain.
const LOGIT_DEVIATION: f32 = 2.5;

impl RandomModel {
    /// Two layers of 256, 320 tokens: the smallest in which every type has whole blocks.
    pub fn tiny(family: Family, mix: Mix, seed: u64) -> Self {
        Self {
            name: format!("tiny random {}", family.architecture()),
            family,
            layers: 2,
            hidden: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            feed_forward: 256,
            experts: (family == Family::Qwen3Moe).then_some(Experts { count: 8, used: 3 }),
            vocab: 320,
            context: 4096,
            rope_base: 10_000.0,
            tied: family != Family::Llama,
            mix,
            seed,
        }
    }

    /// Four layers of 512 with 2,000 tokens and an output layer of its own: for comparisons with other programs in CI, some 10
    /// million weights.
    pub fn small(family: Family, mix: Mix, seed: u64) -> Self {
        Self {
            name: format!("small random {}", family.architecture()),
            layers: 4,
            hidden: 512,
            heads: 8,
            feed_forward: 1024,
            vocab: 2000,
            tied: false,
            ..Self::tiny(family, mix, seed)
        }
    }

    /// The shape of Qwen2.5-1.5B (1.54 billion weights; 0.94 GiB as Q4_K_M).
    pub fn qwen2_5_1_5b(mix: Mix, seed: u64) -> Self {
        Self {
            name: "random weights in the shape of Qwen2.5-1.5B".to_owned(),
            family: Family::Qwen2,
            layers: 28,
            hidden: 1536,
            heads: 12,
            kv_heads: 2,
            head_dim: 128,
            feed_forward: 8960,
            experts: None,
            vocab: 151_936,
            context: 32_768,
            rope_base: 1_000_000.0,
            tied: true,
            mix,
            seed,
        }
    }

    /// The shape of Qwen3-0.6B.
    pub fn qwen3_0_6b(mix: Mix, seed: u64) -> Self {
        Self {
            name: "random weights in the shape of Qwen3-0.6B".to_owned(),
            family: Family::Qwen3,
            layers: 28,
            hidden: 1024,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            feed_forward: 3072,
            experts: None,
            vocab: 151_936,
            context: 40_960,
            rope_base: 1_000_000.0,
            tied: true,
            mix,
            seed,
        }
    }

    /// A mixture of 32 experts, 8 of them for each row, in layers of the shape of Qwen3-30B-A3B's, 12 of them (2.7 billion weights).
    pub fn qwen3_moe_32x8(mix: Mix, seed: u64) -> Self {
        Self {
            name: "random weights, 12 layers in the shape of Qwen3-30B-A3B with 32 experts".to_owned(),
            family: Family::Qwen3Moe,
            layers: 12,
            hidden: 2048,
            heads: 32,
            kv_heads: 4,
            head_dim: 128,
            feed_forward: 768,
            experts: Some(Experts { count: 32, used: 8 }),
            vocab: 151_936,
            context: 40_960,
            rope_base: 1_000_000.0,
            tied: false,
            mix,
            seed,
        }
    }

    /// The file, ready to be written; tensors are produced as they are.
    pub fn writer(&self) -> GgufWriter {
        let mut writer = GgufWriter::new();
        self.set_hyperparameters(&mut writer);
        Vocabulary::new(self.vocab).set_metadata(&mut writer, pre_tokenizer(self.family));
        for tensor in self.tensors() {
            let random = Random::new(self.seed, &tensor.name);
            match tensor.values {
                Values::Matrix { ty, deviation } => {
                    let weights = tensor.shape.iter().product();
                    let as_f32 = matches!(self.mix, Mix::AsF32(_));
                    let produce = Box::new(move |out: &mut dyn Write| match as_f32 {
                        true => write_random_blocks(&mut random.clone(), ty, weights, deviation, &mut Dequantized { ty, out }),
                        false => write_random_blocks(&mut random.clone(), ty, weights, deviation, out),
                    });
                    writer.tensor_produced(&tensor.name, if as_f32 { GgmlType::F32 } else { ty }, &tensor.shape, produce);
                }
                Values::Vector { mean, deviation } => {
                    let mut random = random;
                    let values: Vec<f32> = (0..tensor.shape[0]).map(|_| mean + deviation * random.uniform()).collect();
                    writer.tensor_f32(&tensor.name, &tensor.shape, &values);
                }
            }
        }
        writer
    }

    /// Weights of all tensors.
    pub fn weights(&self) -> usize {
        self.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    }

    fn set_hyperparameters(&self, writer: &mut GgufWriter) {
        let architecture = self.family.architecture();
        writer
            .set("general.architecture", architecture)
            .set("general.name", self.name.as_str())
            .set("general.file_type", self.mix.file_type())
            .set("general.quantization_version", 2u32);
        let counts = [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
        ];
        for (key, count) in counts {
            writer.set(&format!("{architecture}.{key}"), count as u32);
        }
        if let Some(Experts { count, used }) = self.experts {
            for (key, count) in [("expert_count", count), ("expert_used_count", used), ("expert_feed_forward_length", self.feed_forward)] {
                writer.set(&format!("{architecture}.{key}"), count as u32);
            }
        }
        writer.set(&format!("{architecture}.rope.freq_base"), self.rope_base);
        writer.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-6f32);
    }

    fn tensors(&self) -> Vec<PlannedTensor> {
        let mut tensors = Vec::new();
        let (query, key) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let output = LOGIT_DEVIATION / (self.hidden as f32).sqrt();
        let output_type = if self.mix == Mix::Q4KM { GgmlType::Q6K } else { self.mix.plain() };
        let mut matrix = |name: String, shape: Vec<usize>, ty: GgmlType, deviation: f32| {
            tensors.push(PlannedTensor { name, shape, values: Values::Matrix { ty, deviation } });
        };
        // A tied table has the deviation its logits need; the first layers drown it, or every token would predict itself.
        let branch = if self.tied { 1.0 } else { BRANCH_GAIN };
        if self.tied {
            matrix("token_embd.weight".into(), vec![self.hidden, self.vocab], output_type, output);
        } else {
            matrix("token_embd.weight".into(), vec![self.hidden, self.vocab], self.mix.plain(), 1.0);
            matrix("output.weight".into(), vec![self.hidden, self.vocab], output_type, output);
        }
        for layer in 0..self.layers {
            let (plain, better) = (self.mix.plain(), self.mix.of_sensitive(layer, self.layers));
            let keeping = |cols: usize| 1.0 / (cols as f32).sqrt();
            let name = |name: &str| format!("blk.{layer}.{name}.weight");
            matrix(name("attn_q"), vec![self.hidden, query], plain, keeping(self.hidden));
            matrix(name("attn_k"), vec![self.hidden, key], plain, keeping(self.hidden));
            matrix(name("attn_v"), vec![self.hidden, key], better, keeping(self.hidden));
            matrix(name("attn_output"), vec![query, self.hidden], plain, branch * keeping(query));
            let (into, out_of) = (keeping(self.hidden), branch * keeping(self.feed_forward));
            if let Some(Experts { count, .. }) = self.experts {
                matrix(name("ffn_gate_inp"), vec![self.hidden, count], GgmlType::F32, ROUTER_DEVIATION * into);
                matrix(name("ffn_gate_exps"), vec![self.hidden, self.feed_forward, count], plain, into);
                matrix(name("ffn_up_exps"), vec![self.hidden, self.feed_forward, count], plain, into);
                matrix(name("ffn_down_exps"), vec![self.feed_forward, self.hidden, count], better, out_of);
            } else {
                matrix(name("ffn_gate"), vec![self.hidden, self.feed_forward], plain, into);
                matrix(name("ffn_up"), vec![self.hidden, self.feed_forward], plain, into);
                matrix(name("ffn_down"), vec![self.feed_forward, self.hidden], better, out_of);
            }
        }
        let mut vector = |name: String, len: usize, mean: f32, deviation: f32| {
            tensors.push(PlannedTensor { name, shape: vec![len], values: Values::Vector { mean, deviation } });
        };
        vector("output_norm.weight".into(), self.hidden, 1.0, 0.25);
        for layer in 0..self.layers {
            vector(format!("blk.{layer}.attn_norm.weight"), self.hidden, 1.0, 0.25);
            vector(format!("blk.{layer}.ffn_norm.weight"), self.hidden, 1.0, 0.25);
            match self.family {
                Family::Llama => {}
                Family::Qwen2 => {
                    for (name, len) in [("attn_q", query), ("attn_k", key), ("attn_v", key)] {
                        vector(format!("blk.{layer}.{name}.bias"), len, 0.0, 0.3);
                    }
                }
                Family::Qwen3 | Family::Qwen3Moe => {
                    vector(format!("blk.{layer}.attn_q_norm.weight"), self.head_dim, 1.0, 0.25);
                    vector(format!("blk.{layer}.attn_k_norm.weight"), self.head_dim, 1.0, 0.25);
                }
            }
        }
        tensors
    }
}

impl Mix {
    /// The type of most matrices.
    fn plain(self) -> GgmlType {
        match self {
            Self::All(ty) | Self::AsF32(ty) => ty,
            Self::Q4KM => GgmlType::Q4K,
        }
    }

    /// The type of `attn_v` and `ffn_down`: in Q4_K_M the better one in the first and last eighth, and in every third layer between.
    fn of_sensitive(self, layer: usize, layers: usize) -> GgmlType {
        let eighth = layers / 8;
        match self {
            Self::All(ty) | Self::AsF32(ty) => ty,
            Self::Q4KM if layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2 => GgmlType::Q6K,
            Self::Q4KM => GgmlType::Q4K,
        }
    }

    /// `general.file_type`, llama.cpp's number for the mix; for messages only.
    fn file_type(self) -> u32 {
        match self {
            Self::Q4KM => 15,
            Self::All(GgmlType::F16) => 1,
            Self::All(GgmlType::Q4_0) => 2,
            Self::All(GgmlType::Q4_1) => 3,
            Self::All(GgmlType::Q8_0) => 7,
            Self::All(GgmlType::Q5_0) => 8,
            Self::All(GgmlType::Q5_1) => 9,
            Self::All(GgmlType::Q2K) => 10,
            Self::All(GgmlType::Q3K) => 11,
            Self::All(GgmlType::Q4K) => 14,
            Self::All(GgmlType::Q5K) => 16,
            Self::All(GgmlType::Q6K) => 18,
            Self::All(GgmlType::IQ2XXS) => 19,
            Self::All(GgmlType::IQ2XS) => 20,
            Self::All(GgmlType::IQ3XXS) => 23,
            Self::All(GgmlType::IQ1S) => 24,
            Self::All(GgmlType::IQ4NL) => 25,
            Self::All(GgmlType::IQ3S) => 26,
            Self::All(GgmlType::IQ2S) => 28,
            Self::All(GgmlType::IQ4XS) => 30,
            Self::All(GgmlType::IQ1M) => 31,
            Self::All(GgmlType::BF16) => 32,
            Self::All(GgmlType::TQ1_0) => 36,
            Self::All(GgmlType::TQ2_0) => 37,
            Self::All(GgmlType::MXFP4) => 38,
            Self::All(_) | Self::AsF32(_) => 0,
        }
    }
}

/// Turns the blocks written to it into f32.
struct Dequantized<'a> {
    ty: GgmlType,
    out: &'a mut dyn Write,
}

impl Write for Dequantized<'_> {
    /// Whole blocks at a time.
    fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
        let mut weights = vec![0.0; blocks.len() / self.ty.block_bytes() * self.ty.block_size()];
        dequantize(self.ty, blocks, &mut weights);
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        self.out.write_all(&bytes)?;
        Ok(blocks.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct PlannedTensor {
    name: String,
    /// In ggml order: row length first.
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    Matrix { ty: GgmlType, deviation: f32 },
    Vector { mean: f32, deviation: f32 },
}

fn pre_tokenizer(family: Family) -> &'static str {
    match family {
        Family::Llama => "llama-bpe",
        Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => "qwen2",
    }
}
