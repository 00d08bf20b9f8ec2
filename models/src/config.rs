//! Hyperparameters of a model, read once from GGUF metadata and checked before anything is allocated.
//!
//! Invariant: what passes here is sane: counts are positive and bounded by the file, heads divide, frequencies are finite.
//! Knows no tensor data; of a family it knows only the prefix of the keys.

use kernels::ops::attention::AttentionSpec;

use crate::gguf::Gguf;
use crate::metadata::Metadata;
use crate::rope::RopeParameters;
use crate::state::{LayerGroup, LayerState};

/// What the rest of the program needs to know of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: String,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// Context the model declares, in tokens.
    pub context_max: usize,
}

/// Which feed-forward layer the blocks of a family have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// One, for every row.
    Dense,
    /// Many, of which a router chooses some for each row: softmax over all, then the largest.
    Experts,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertParameters {
    pub count: usize,
    /// Experts a row uses.
    pub used: usize,
    /// Whether the weights of the experts used are divided by their sum.
    pub renormalise: bool,
}

/// Everything the metadata says about the computation.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameters {
    pub model: ModelConfig,
    /// Width of the feed-forward layer; where there are experts, of one of them.
    pub feed_forward: usize,
    pub experts: Option<ExpertParameters>,
    /// Epsilon of every root-mean-square norm.
    pub norm_eps: f32,
    pub attention: AttentionSpec,
    pub rope: RopeParameters,
}

/// Why a file's metadata describes no model this build can run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("metadata key {0:?} is missing")]
    Missing(String),
    #[error("metadata key {key:?} should be {wanted}, but is {got}")]
    Kind { key: String, wanted: &'static str, got: String },
    #[error("metadata key {key:?} is {value}: {problem}")]
    Value { key: String, value: String, problem: String },
    #[error("metadata key {key:?} differs from layer to layer ({first} and {other}), which this build does not know")]
    DiffersPerLayer { key: String, first: u64, other: u64 },
    #[error("{key:?} is {value}: {what}, which this build does not know for the architecture {architecture}")]
    Unsupported { key: String, value: String, architecture: String, what: &'static str },
    #[error("tensor {0:?} is missing")]
    MissingTensor(&'static str),
    #[error("tensor {name:?} has the shape {shape:?}, {problem}")]
    TensorShape { name: &'static str, shape: Vec<usize>, problem: &'static str },
}

/// Far above any model there is (the largest have 128 heads of 512, 160 layers), far below what would overflow a product.
const HIDDEN_MAX: usize = 1 << 20;
const HEADS_MAX: usize = 1 << 12;
const HEAD_DIM_MAX: usize = 1 << 10;
const FEED_FORWARD_MAX: usize = 1 << 24;
const EXPERTS_MAX: usize = 1 << 16;
/// Positions are u32, and slots of the cache too.
const CONTEXT_MAX: usize = 1 << 31;
const VOCAB_MAX: usize = 1 << 24;

/// Keys that change the computation in a way the families here do not follow, with the value that means "off".
/// A file that sets one is refused by name: the alternative is a model that talks nonsense.
const UNSUPPORTED_NUMBERS: &[(&str, f64, &str)] = &[
    ("logit_scale", 1.0, "scaled logits"),
    ("embedding_scale", 1.0, "scaled embeddings"),
    ("residual_scale", 1.0, "scaled residuals"),
    ("attention.clamp_kqv", 0.0, "clamped queries, keys and values"),
    ("attention.max_alibi_bias", 0.0, "attention with linear biases"),
    ("attention.temperature_length", 0.0, "attention temperature"),
    ("attention.shared_kv_layers", 0.0, "keys and values shared between layers"),
    ("attn_logit_softcapping", 0.0, "capped attention scores"),
    ("final_logit_softcapping", 0.0, "capped logits"),
    ("nextn_predict_layers", 0.0, "layers that predict further tokens"),
    ("expert_shared_count", 0.0, "experts that every row uses"),
    ("expert_shared_feed_forward_length", 0.0, "experts that every row uses"),
    ("expert_weights_scale", 1.0, "scaled weights of experts"),
    ("expert_gating_func", SOFTMAX_GATING, "another way to choose experts"),
    ("expert_group_count", 1.0, "experts in groups"),
    ("leading_dense_block_count", 0.0, "layers without experts"),
    ("interleave_moe_layer_step", 1.0, "layers without experts"),
    ("moe_every_n_layers", 1.0, "layers without experts"),
];

/// llama.cpp's number for softmax over all experts.
const SOFTMAX_GATING: f64 = 1.0;

impl Hyperparameters {
    /// Reads the keys of `architecture` (the prefix of its keys), whose feed-forward layers are of `kind`.
    pub fn read(gguf: &Gguf, architecture: &str, kind: FeedForwardKind) -> Result<Self, ConfigError> {
        let metadata = Metadata::new(gguf, architecture);
        refuse_unsupported(&metadata)?;

        // Each layer has tensors of its own, so a layer count beyond the number of tensors is a lie.
        let layers = metadata.count("block_count", 1..=gguf.tensors().len())?;
        let hidden = metadata.count("embedding_length", 1..=HIDDEN_MAX)?;
        let context_max = metadata.count("context_length", 1..=CONTEXT_MAX)?;
        let (feed_forward, experts) = feed_forward(&metadata, layers, kind)?;
        let heads = metadata.count_of_layers("attention.head_count", layers, 1..=HEADS_MAX)?;
        let kv_heads = match metadata.has("attention.head_count_kv") {
            true => metadata.count_of_layers("attention.head_count_kv", layers, 1..=HEADS_MAX)?,
            false => heads,
        };
        if heads % kv_heads != 0 {
            let problem = format!("the {heads} query heads cannot be shared out among them");
            return Err(metadata.bad_value("attention.head_count_kv", kv_heads, problem));
        }
        let head_dim = head_dim(&metadata, hidden, heads)?;
        let norm_eps = metadata.number("attention.layer_norm_rms_epsilon")?;
        if !(norm_eps > 0.0 && norm_eps < 1.0) {
            return Err(metadata.bad_value("attention.layer_norm_rms_epsilon", norm_eps, "it must lie between 0 and 1".into()));
        }

        Ok(Self {
            model: ModelConfig {
                architecture: architecture.to_owned(),
                layers,
                hidden,
                heads,
                kv_heads,
                head_dim,
                vocab: vocab(gguf, &metadata, hidden)?,
                context_max,
            },
            feed_forward,
            experts,
            norm_eps: norm_eps as f32,
            attention: AttentionSpec {
                scale: attention_scale(&metadata, head_dim)?,
                heads,
                kv_heads,
                head_dim,
                window: window(&metadata, context_max)?,
                softcap: None,
                sinks: None,
            },
            rope: RopeParameters::read(&metadata, head_dim, context_max)?,
        })
    }
}

impl Hyperparameters {
    /// What the layers remember: in the families here all of them the same.
    pub fn layer_groups(&self) -> Vec<LayerGroup> {
        let state = self.attention.window.map_or(LayerState::Full, |window| LayerState::Sliding { window });
        vec![LayerGroup { layers: self.model.layers, state }]
    }
}

fn refuse_unsupported(metadata: &Metadata<'_>) -> Result<(), ConfigError> {
    for (key, off, what) in UNSUPPORTED_NUMBERS {
        // 0 is how converters write "not set", also where 1 would be neutral.
        if let Some(value) = metadata.optional_number(key)?.filter(|value| value != off && *value != 0.0) {
            return Err(metadata.unsupported(key, value, what));
        }
    }
    if metadata.flag("attention.causal")? == Some(false) {
        return Err(metadata.unsupported("attention.causal", false, "attention in both directions"));
    }
    if metadata.flag("use_parallel_residual")? == Some(true) {
        return Err(metadata.unsupported("use_parallel_residual", true, "attention and feed-forward side by side"));
    }
    Ok(())
}

/// Width and experts. A dense model must have no experts, a mixture at least one, of which each row uses some.
fn feed_forward(metadata: &Metadata<'_>, layers: usize, kind: FeedForwardKind) -> Result<(usize, Option<ExpertParameters>), ConfigError> {
    match kind {
        FeedForwardKind::Dense => {
            if let Some(count) = metadata.optional_number("expert_count")?.filter(|count| *count != 0.0) {
                return Err(metadata.unsupported("expert_count", count, "a mixture of experts"));
            }
            Ok((metadata.count_of_layers("feed_forward_length", layers, 1..=FEED_FORWARD_MAX)?, None))
        }
        FeedForwardKind::Experts => {
            let count = metadata.count_of_layers("expert_count", layers, 1..=EXPERTS_MAX)?;
            let used = metadata.count_of_layers("expert_used_count", layers, 1..=EXPERTS_MAX)?;
            if used > count {
                return Err(metadata.bad_value("expert_used_count", used, format!("there are {count} experts")));
            }
            // The published mixtures of these families all renormalise, and older converters did not write the key.
            let renormalise = metadata.flag("expert_weights_norm")?.unwrap_or(true);
            let width = metadata.count_of_layers("expert_feed_forward_length", layers, 1..=FEED_FORWARD_MAX)?;
            Ok((width, Some(ExpertParameters { count, used, renormalise })))
        }
    }
}

/// `attention.key_length` where given, else `embedding_length / head_count`; even, since rotation works on pairs.
fn head_dim(metadata: &Metadata<'_>, hidden: usize, heads: usize) -> Result<usize, ConfigError> {
    let (key, given, head_dim) = match metadata.has("attention.key_length") {
        true => {
            let length = metadata.count("attention.key_length", 2..=HEAD_DIM_MAX)?;
            ("attention.key_length", length, length)
        }
        false if !hidden.is_multiple_of(heads) => {
            return Err(metadata.bad_value("attention.head_count", heads, format!("it does not divide the embedding length {hidden}")));
        }
        false => ("attention.head_count", heads, hidden / heads),
    };
    if head_dim > HEAD_DIM_MAX || head_dim % 2 != 0 {
        let problem = format!("that makes heads of {head_dim}; an even number up to {HEAD_DIM_MAX} is wanted");
        return Err(metadata.bad_value(key, given, problem));
    }
    if metadata.has("attention.value_length") {
        let value_length = metadata.count("attention.value_length", 1..=HEAD_DIM_MAX)?;
        if value_length != head_dim {
            return Err(metadata.unsupported("attention.value_length", value_length, "values of another length than keys"));
        }
    }
    Ok(head_dim)
}

/// `attention.scale` where set, else `1 / sqrt(head_dim)`.
fn attention_scale(metadata: &Metadata<'_>, head_dim: usize) -> Result<f32, ConfigError> {
    match metadata.optional_number("attention.scale")? {
        None | Some(0.0) => Ok((1.0 / (head_dim as f64).sqrt()) as f32),
        Some(scale) if scale.is_finite() && scale > 0.0 => Ok(scale as f32),
        Some(scale) => Err(metadata.bad_value("attention.scale", scale, "it must be positive".into())),
    }
}

/// A sliding window (early Mistral models); one that holds the whole context is none.
fn window(metadata: &Metadata<'_>, context_max: usize) -> Result<Option<usize>, ConfigError> {
    for key in ["attention.sliding_window_pattern", "attention.key_length_swa"] {
        if metadata.has(key) {
            return Err(metadata.unsupported(key, "set", "a sliding window in some layers only"));
        }
    }
    if !metadata.has("attention.sliding_window") {
        return Ok(None);
    }
    let window = metadata.count("attention.sliding_window", 0..=usize::MAX)?;
    Ok((window != 0 && window < context_max).then_some(window))
}

/// The rows of the embedding table are the vocabulary; a declared size beyond them is a lie.
fn vocab(gguf: &Gguf, metadata: &Metadata<'_>, hidden: usize) -> Result<usize, ConfigError> {
    const TABLE: &str = "token_embd.weight";
    let table = gguf.tensors().iter().find(|tensor| tensor.name == TABLE).ok_or(ConfigError::MissingTensor(TABLE))?;
    let shape_error = |problem| ConfigError::TensorShape { name: TABLE, shape: table.shape.clone(), problem };
    let &[cols, vocab] = table.shape.as_slice() else { return Err(shape_error("which is no table")) };
    if cols != hidden {
        return Err(shape_error("whose rows are not as long as the embedding length says"));
    }
    if vocab == 0 || vocab > VOCAB_MAX {
        return Err(shape_error("which is no size of a vocabulary"));
    }
    if metadata.has("vocab_size") {
        metadata.count("vocab_size", 1..=vocab)?;
    }
    Ok(vocab)
}
