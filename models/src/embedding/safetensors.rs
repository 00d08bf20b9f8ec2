//! Tensors of a `.safetensors` file, used where they lie in the mapped file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use kernels::blocks::dequantize;
use kernels::{GgmlType, SharedBytes, Weight};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};

use super::encoder::EncoderTensors;
use super::{EmbeddingError, file_error};
use crate::gguf::map;

/// A file, and what its tensors' names begin with: a model saved with a head on it has its body under a name of its own.
pub struct TensorFile {
    path: PathBuf,
    tensors: Metadata,
    data: SharedBytes,
    prefix: &'static str,
}

const PREFIXES: [&str; 3] = ["", "bert.", "roberta."];
const MARK: &str = "embeddings.word_embeddings.weight";

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self, EmbeddingError> {
        let map = map::map(path).map_err(|problem| file_error(path, problem))?;
        let bytes = SharedBytes::new(Arc::new(map));
        let (header, tensors) = SafeTensors::read_metadata(bytes.as_slice()).map_err(|problem| file_error(path, problem))?;
        // The header's length is written in 8 bytes before it; what is read here has been checked against the file's length.
        let start = 8 + header;
        let data = bytes.slice(start, tensors.data_len()).ok_or_else(|| file_error(path, "is shorter than its header says"))?;
        let prefix = PREFIXES.into_iter().find(|prefix| tensors.info(&format!("{prefix}{MARK}")).is_some());
        let prefix = prefix.ok_or_else(|| file_error(path, format_args!("holds no {MARK:?}: no model of the BERT family")))?;
        Ok(Self { path: path.to_owned(), tensors, data, prefix })
    }

    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub fn bytes(&self) -> u64 {
        self.data.as_slice().len() as u64
    }

    /// Under its name, under the name of its model, and under the names that conversions from TensorFlow left.
    fn find(&self, name: &str) -> Option<String> {
        let old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        let names = [format!("{}{name}", self.prefix), name.to_owned(), format!("{}{old}", self.prefix)];
        names.into_iter().find(|name| self.tensors.info(name).is_some())
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<(SharedBytes, GgmlType), EmbeddingError> {
        let error = |problem: String| EmbeddingError::Tensor { file: self.path.display().to_string(), problem };
        let missing = || error(format!("tensor {name:?} is missing"));
        let info = self.find(name).and_then(|name| self.tensors.info(&name)).ok_or_else(missing)?;
        if info.shape != shape {
            return Err(error(format!("tensor {name:?} has the shape {:?}, but config.json says {shape:?}", info.shape)));
        }
        let ty = match info.dtype {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            other => return Err(error(format!("tensor {name:?} is {other:?}; F32, F16 and BF16 can be computed"))),
        };
        let (start, end) = info.data_offsets;
        let bytes = self.data.slice(start, end - start).expect("offsets were checked against the file");
        Ok((bytes, ty))
    }
}

impl EncoderTensors for TensorFile {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, EmbeddingError> {
        let (bytes, ty) = self.tensor(name, &[rows, cols])?;
        Weight::new(bytes, ty, rows, cols, &Device::Cpu).map_err(|problem| EmbeddingError::Weight {
            file: self.path.display().to_string(),
            name: name.to_owned(),
            problem: Box::new(problem),
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, EmbeddingError> {
        let (bytes, ty) = self.tensor(name, &[len])?;
        let mut values = vec![0.0; len];
        dequantize(ty, bytes.as_slice(), &mut values);
        Ok(values)
    }
}
