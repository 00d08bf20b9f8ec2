//! A weight matrix as it lies in the file.

use std::sync::Arc;

use candle_core::Device;

use crate::GgmlType;

/// A window into bytes that somebody keeps alive: a mapped file, the binary itself, or a vector.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    start: usize,
    len: usize,
}

impl SharedBytes {
    /// The whole of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let len = (*owner).as_ref().len();
        Self { owner, start: 0, len }
    }

    /// A window of this window; `None` where it does not fit.
    pub fn slice(&self, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= self.len).then(|| Self { owner: self.owner.clone(), start: self.start + start, len })
    }

    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    #[error("a {0:?} weight cannot be computed here")]
    Unsupported(GgmlType),
    #[error("a {ty:?} weight of {rows} x {cols} needs {wanted} bytes, {got} given")]
    Size { ty: GgmlType, rows: usize, cols: usize, wanted: usize, got: usize },
    #[error("a row of {cols} weights is not a multiple of the {ty:?} block")]
    Columns { ty: GgmlType, cols: usize },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A weight matrix `[rows N, cols K]`, row-major, in its GGUF block format. On CPU the bytes are used where they lie;
/// on CUDA and Metal they become a Candle quantized tensor on the device.
#[derive(Debug, Clone)]
pub struct Weight {
    bytes: SharedBytes,
    ty: GgmlType,
    rows: usize,
    cols: usize,
    device: Device,
}

impl Weight {
    pub fn new(bytes: SharedBytes, ty: GgmlType, rows: usize, cols: usize, device: &Device) -> Result<Self, WeightError> {
        Ok(Self { bytes, ty, rows, cols, device: device.clone() })
    }
    pub fn rows(&self) -> usize {
        self.rows
    }
    pub fn cols(&self) -> usize {
        self.cols
    }
    pub fn ggml_type(&self) -> GgmlType {
        self.ty
    }
    pub fn device(&self) -> &Device {
        &self.device
    }
    pub fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }
}
