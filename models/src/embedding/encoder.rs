//! The encoder of BERT (Devlin et al. 2019) and RoBERTa: every token sees every token of its own text.
//!
//! Our own, from the ops of `kernels/`, for their promise: a row has the same bits alone and in company. All rows of a pack go through a
//! matrix together; attention is computed text by text. It runs on the CPU.

use candle_core::{Device, Tensor};
use kernels::ops::embed::embed;
use kernels::ops::linear::{linear, linear_add_, linear_multi};
use kernels::ops::softmax::softmax_;
use kernels::{GgmlType, Weight};

use super::pooling::Pooling;
use super::{Embedder, EmbeddingError, Pause, Sequence, go_on};

/// Rows of a pack: enough for the matrix kernels, some milliseconds an op. A text that is longer is a pack of its own.
const PACK_ROWS: usize = 256;

/// The numbers of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub feed_forward: usize,
    pub vocab: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// Of the first token: RoBERTa's tables begin with rows for padding.
    pub first_position: usize,
    pub token_types: usize,
    pub norm_eps: f32,
}

impl EncoderConfig {
    /// The longest sequence there are positions for.
    pub fn tokens_max(&self) -> usize {
        self.positions.saturating_sub(self.first_position)
    }

    /// What a pack takes at most, its longest text having `tokens`: residual, its norm, query, key, value, mixed, the inner rows twice; and
    /// the scores of one head, with that head's rows.
    pub fn scratch_bytes(&self, tokens: usize) -> u64 {
        let rows = PACK_ROWS.max(tokens) as u64;
        let row = 8 * self.hidden + 2 * self.feed_forward;
        4 * (rows * row as u64 + tokens as u64 * (2 * tokens + 4 * self.hidden / self.heads) as u64)
    }
}

/// Where the weights come from, by the names that Hugging Face's BERT has for them.
pub trait EncoderTensors {
    /// The matrix `{name}`, of this shape.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, EmbeddingError>;
    /// The vector `{name}`, as f32.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, EmbeddingError>;
}

/// What becomes of the last hidden states.
#[derive(Debug, Clone)]
pub enum Head {
    Pool(Pooling),
    /// A cross-encoder's: one number from the first token's.
    Classify {
        dense: Projection,
        output: Projection,
    },
}

/// A matrix and its bias.
#[derive(Debug, Clone)]
pub struct Projection {
    weight: Weight,
    bias: Tensor,
}

/// A loaded encoder.
#[derive(Debug, Clone)]
pub struct Encoder {
    config: EncoderConfig,
    words: Weight,
    positions: Weight,
    token_types: Option<Weight>,
    norm: LayerNorm,
    blocks: Vec<Block>,
    head: Head,
}

#[derive(Debug, Clone)]
struct Block {
    query: Projection,
    key: Projection,
    value: Projection,
    attention_output: Projection,
    attention_norm: LayerNorm,
    up: Projection,
    down: Projection,
    output_norm: LayerNorm,
}

#[derive(Debug, Clone)]
struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl Encoder {
    pub fn load(tensors: &dyn EncoderTensors, config: EncoderConfig, head: Head) -> Result<Self, EmbeddingError> {
        let EncoderConfig { layers, hidden, feed_forward, vocab, positions, token_types, norm_eps: eps, .. } = config;
        let norm = |name: &str| LayerNorm::load(tensors, name, hidden, eps);
        let block = |layer: usize| {
            let name = |name: &str| format!("encoder.layer.{layer}.{name}");
            let square = |part: &str| Projection::load(tensors, &name(part), hidden, hidden);
            Ok(Block {
                query: square("attention.self.query")?,
                key: square("attention.self.key")?,
                value: square("attention.self.value")?,
                attention_output: square("attention.output.dense")?,
                attention_norm: norm(&name("attention.output.LayerNorm"))?,
                up: Projection::load(tensors, &name("intermediate.dense"), feed_forward, hidden)?,
                down: Projection::load(tensors, &name("output.dense"), hidden, feed_forward)?,
                output_norm: norm(&name("output.LayerNorm"))?,
            })
        };
        Ok(Self {
            words: tensors.matrix("embeddings.word_embeddings.weight", vocab, hidden)?,
            positions: tensors.matrix("embeddings.position_embeddings.weight", positions, hidden)?,
            token_types: match token_types {
                0 => None,
                types => Some(tensors.matrix("embeddings.token_type_embeddings.weight", types, hidden)?),
            },
            norm: norm("embeddings.LayerNorm")?,
            blocks: (0..layers).map(block).collect::<Result<_, EmbeddingError>>()?,
            head,
            config,
        })
    }

    /// Hidden states of the last layer, row by row: `[sum of the lengths, hidden]`.
    fn hidden(&self, pack: &[Sequence], pause: &mut Pause<'_>) -> Result<Tensor, EmbeddingError> {
        let (mut ids, mut places, mut types, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for sequence in pack {
            let first = self.config.first_position as u32;
            ids.extend_from_slice(&sequence.ids);
            places.extend((0..sequence.ids.len() as u32).map(|index| first + index));
            types.extend((0..sequence.ids.len()).map(|index| u32::from(index >= sequence.second_from && self.config.token_types > 1)));
            lengths.push(sequence.ids.len());
        }
        let mut residual = (embed(&self.words, &ids)? + embed(&self.positions, &places)?)?;
        if let Some(table) = &self.token_types {
            residual = (residual + embed(table, &types)?)?;
        }
        residual = self.norm.forward(&residual)?;
        for block in &self.blocks {
            go_on(pause)?;
            residual = block.forward(residual, &lengths, self.config.heads)?;
        }
        Ok(residual)
    }

    fn checked<'a>(&self, sequences: &'a [Sequence]) -> Result<&'a [Sequence], EmbeddingError> {
        let tokens_max = self.config.tokens_max();
        match sequences.iter().map(|sequence| sequence.ids.len()).find(|tokens| !(1..=tokens_max).contains(tokens)) {
            Some(tokens) => Err(EmbeddingError::Length { tokens, tokens_max }),
            None => Ok(sequences),
        }
    }
}

impl Embedder for Encoder {
    fn width(&self) -> usize {
        match &self.head {
            Head::Pool(_) => self.config.hidden,
            Head::Classify { output, .. } => output.weight.rows(),
        }
    }

    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn embed(&mut self, sequences: &[Sequence], pause: &mut Pause<'_>) -> Result<Vec<Vec<f32>>, EmbeddingError> {
        let hidden = self.config.hidden;
        let mut vectors = Vec::with_capacity(sequences.len());
        for pack in packs(self.checked(sequences)?) {
            let states: Vec<f32> = self.hidden(pack, pause)?.flatten_all()?.to_vec1()?;
            let mut rest = states.as_slice();
            for sequence in pack {
                let (own, after) = rest.split_at(sequence.ids.len() * hidden);
                rest = after;
                vectors.push(self.head.vector(own, hidden)?);
            }
        }
        Ok(vectors)
    }
}

/// Neighbours together, as many as fill [`PACK_ROWS`].
fn packs(sequences: &[Sequence]) -> Vec<&[Sequence]> {
    let (mut packs, mut start, mut rows) = (Vec::new(), 0, 0);
    for (index, sequence) in sequences.iter().enumerate() {
        if index > start && rows + sequence.ids.len() > PACK_ROWS {
            packs.push(&sequences[start..index]);
            (start, rows) = (index, 0);
        }
        rows += sequence.ids.len();
    }
    if start < sequences.len() {
        packs.push(&sequences[start..]);
    }
    packs
}

impl Head {
    fn vector(&self, states: &[f32], hidden: usize) -> Result<Vec<f32>, EmbeddingError> {
        match self {
            Self::Pool(pooling) => Ok(pooling.pool(states, hidden)),
            Self::Classify { dense, output } => {
                let first = Tensor::from_slice(&states[..hidden], (1, hidden), &Device::Cpu)?;
                let scores = output.forward(&dense.forward(&first)?.tanh()?)?;
                Ok(scores.flatten_all()?.to_vec1()?)
            }
        }
    }
}

impl Projection {
    /// `{name}.weight` and `{name}.bias`.
    pub fn load(tensors: &dyn EncoderTensors, name: &str, rows: usize, cols: usize) -> Result<Self, EmbeddingError> {
        Ok(Self {
            weight: tensors.matrix(&format!("{name}.weight"), rows, cols)?,
            bias: Tensor::from_vec(tensors.vector(&format!("{name}.bias"), rows)?, rows, &Device::Cpu)?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        linear(x, &self.weight, Some(&self.bias))
    }

    fn forward_add_(&self, residual: &Tensor, x: &Tensor) -> candle_core::Result<()> {
        linear_add_(residual, x, &self.weight, Some(&self.bias))
    }
}

impl Block {
    /// Norms come after the sums, as in the paper; the GELU is the exact one.
    fn forward(&self, residual: Tensor, lengths: &[usize], heads: usize) -> candle_core::Result<Tensor> {
        let projections = [&self.query, &self.key, &self.value].map(|projection| (&projection.weight, Some(&projection.bias)));
        let [query, key, value]: [Tensor; 3] = linear_multi(&residual, &projections)?.try_into().expect("three products of three weights");
        let mixed = attention([&query, &key, &value], lengths, heads)?;
        self.attention_output.forward_add_(&residual, &mixed)?;
        let residual = self.attention_norm.forward(&residual)?;
        let inner = self.up.forward(&residual)?.gelu_erf()?;
        self.down.forward_add_(&residual, &inner)?;
        self.output_norm.forward(&residual)
    }
}

/// `softmax(q k^T / sqrt(d)) v`, text by text and head by head: two products in which keys and values stand for the weights, so that these,
/// too, have the kernels' one order of accumulation.
fn attention(rows: [&Tensor; 3], lengths: &[usize], heads: usize) -> candle_core::Result<Tensor> {
    let (total, hidden) = rows[0].dims2()?;
    let head_dim = hidden / heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let [mut query, key, value]: [Vec<f32>; 3] = {
        let read = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        [read(rows[0])?, read(rows[1])?, read(rows[2])?]
    };
    query.iter_mut().for_each(|x| *x *= scale);
    let mut mixed = vec![0.0; total * hidden];
    let mut start = 0;
    for &length in lengths {
        for head in 0..heads {
            let of = |values: &[f32]| {
                let row = |row: usize| &values[(start + row) * hidden + head * head_dim..][..head_dim];
                (0..length).flat_map(row).copied().collect::<Vec<f32>>()
            };
            let query = Tensor::from_vec(of(&query), (length, head_dim), &Device::Cpu)?;
            let mut scores: Vec<f32> = linear(&query, &weight(&of(&key), length, head_dim)?, None)?.flatten_all()?.to_vec1()?;
            scores.chunks_exact_mut(length).for_each(softmax_);
            let scores = Tensor::from_vec(scores, (length, length), &Device::Cpu)?;
            let values = weight(&transposed(&of(&value), head_dim), head_dim, length)?;
            let out: Vec<f32> = linear(&scores, &values, None)?.flatten_all()?.to_vec1()?;
            for (row, out) in out.chunks_exact(head_dim).enumerate() {
                mixed[(start + row) * hidden + head * head_dim..][..head_dim].copy_from_slice(out);
            }
        }
        start += length;
    }
    Tensor::from_vec(mixed, (total, hidden), &Device::Cpu)
}

fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    let rows = values.len() / width;
    (0..width).flat_map(|column| (0..rows).map(move |row| values[row * width + column])).collect()
}

/// Activations as a matrix to multiply with.
fn weight(values: &[f32], rows: usize, cols: usize) -> candle_core::Result<Weight> {
    let mut bytes = vec![0u8; 4 * values.len()];
    bytes.as_chunks_mut::<4>().0.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = value.to_le_bytes());
    Weight::new(bytes.into(), GgmlType::F32, rows, cols, &Device::Cpu).map_err(candle_core::Error::wrap)
}

impl LayerNorm {
    fn load(tensors: &dyn EncoderTensors, name: &str, width: usize, eps: f32) -> Result<Self, EmbeddingError> {
        let vector = |part: &str| tensors.vector(&format!("{name}.{part}"), width);
        Ok(Self { weight: vector("weight")?, bias: vector("bias")?, eps })
    }

    /// `(x - mean) / sqrt(variance + eps) * weight + bias` of each row (Ba et al. 2016); sums are in f64.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (shape, width) = (x.dims2()?, self.weight.len());
        let mut values: Vec<f32> = x.flatten_all()?.to_vec1()?;
        for row in values.chunks_exact_mut(width) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (variance + f64::from(self.eps)).sqrt();
            for ((x, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *x = ((f64::from(*x) - mean) * scale) as f32 * weight + bias;
            }
        }
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_fill_a_pack_and_a_long_text_is_its_own() {
        let of = |tokens: usize| Sequence::single(vec![0; tokens]);
        let sequences = [of(100), of(156), of(1), of(300), of(2), of(3)];
        let lengths: Vec<Vec<usize>> =
            packs(&sequences).iter().map(|pack| pack.iter().map(|sequence| sequence.ids.len()).collect()).collect();
        assert_eq!(lengths, [vec![100, 156], vec![1], vec![300], vec![2, 3]]);
        assert!(packs(&[]).is_empty());
    }

    #[test]
    fn transposed_is_columns_first() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }
}
