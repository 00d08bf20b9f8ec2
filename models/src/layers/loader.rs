//! Tensors by name, each taken once, each of the shape the metadata promised.
//!
//! A tensor nobody takes is an error: it belongs to a variant of the architecture that would be computed wrongly without it.

use std::collections::HashSet;

use candle_core::{Device, Tensor};
use kernels::Weight;

use crate::gguf::Gguf;
use crate::model::ModelError;

/// Why a file's tensors are not those of the model its metadata describes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TensorError {
    #[error("tensor {0:?} is missing")]
    Missing(String),
    #[error("tensor {name:?} has the shape {got:?}, but the metadata says {wanted:?}")]
    Shape { name: String, got: Vec<usize>, wanted: Vec<usize> },
    #[error("tensor {name:?} has no place in the architecture {architecture} as this build knows it (and {more} more)")]
    NoPlace { name: String, architecture: String, more: usize },
    #[error("tensor {name:?} holds {value} at {index}; it must hold positive numbers")]
    NotPositive { name: String, index: usize, value: f32 },
}

/// What old converters wrote and nobody reads: the rotation's frequencies, once a layer.
const IGNORED_SUFFIXES: &[&str] = &[".attn_rot_embd.weight", ".attn_rot_embd", ".attention.rotary_emb.inv_freq"];

pub struct Loader<'a> {
    gguf: &'a Gguf,
    device: &'a Device,
    architecture: &'a str,
    taken: HashSet<&'a str>,
}

impl<'a> Loader<'a> {
    pub fn new(gguf: &'a Gguf, device: &'a Device, architecture: &'a str) -> Self {
        Self { gguf, device, architecture, taken: HashSet::new() }
    }

    pub fn has(&self, name: &str) -> bool {
        self.gguf.find_tensor(name).is_some()
    }

    /// A matrix `[rows, cols]`.
    pub fn weight(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight, ModelError> {
        self.take(name, &[cols, rows])?;
        Ok(self.gguf.weight(name, self.device)?)
    }

    /// A stack of `count` matrices `[rows, cols]`, each where it lies.
    pub fn stack(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Weight>, ModelError> {
        self.take(name, &[cols, rows, count])?;
        Ok(self.gguf.stack(name, count, (rows, cols), self.device)?)
    }

    /// A vector of `len`, as f32.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Tensor, ModelError> {
        self.take(name, &[len])?;
        Ok(self.gguf.dense_f32(name, self.device)?.flatten_all()?)
    }

    /// A vector of `len`, as f32; `None` where the file has none.
    pub fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Tensor>, ModelError> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    /// [`Self::optional_vector`] on the host, of numbers that something is divided by: finite and positive.
    pub fn optional_divisors(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(vector) = self.optional_vector(name, len)? else { return Ok(None) };
        let numbers: Vec<f32> = vector.to_vec1()?;
        match numbers.iter().position(|number| !(number.is_finite() && *number > 0.0)) {
            None => Ok(Some(numbers)),
            Some(index) => Err(self.error(TensorError::NotPositive { name: name.to_owned(), index, value: numbers[index] })),
        }
    }

    /// Everything must have been taken by now.
    pub fn finish(self) -> Result<(), ModelError> {
        let ignored = |name: &str| IGNORED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
        let names = self.gguf.tensors().iter().map(|tensor| tensor.name.as_str());
        let mut left = names.filter(|name| !self.taken.contains(name) && !ignored(name));
        match left.next() {
            None => Ok(()),
            Some(name) => {
                let (name, architecture) = (name.to_owned(), self.architecture.to_owned());
                Err(self.error(TensorError::NoPlace { name, architecture, more: left.count() }))
            }
        }
    }

    /// `wanted` in ggml order. Trailing sizes of 1 do not count.
    fn take(&mut self, name: &str, wanted: &[usize]) -> Result<(), ModelError> {
        let tensor = self.gguf.find_tensor(name).ok_or_else(|| self.error(TensorError::Missing(name.to_owned())))?;
        if trimmed(&tensor.shape) != trimmed(wanted) {
            let (got, wanted) = (tensor.shape.clone(), wanted.to_vec());
            return Err(self.error(TensorError::Shape { name: name.to_owned(), got, wanted }));
        }
        self.taken.insert(tensor.name.as_str());
        Ok(())
    }

    fn error(&self, problem: TensorError) -> ModelError {
        ModelError::Tensor { file: self.gguf.name().to_owned(), problem }
    }
}

fn trimmed(shape: &[usize]) -> &[usize] {
    let len = shape.iter().rposition(|size| *size != 1).map_or(1.min(shape.len()), |last| last + 1);
    &shape[..len]
}
