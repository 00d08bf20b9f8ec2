//! A weight matrix as it lies in the file.
//!
//! Decides that sizes and types are sound before any kernel sees a pointer. Knows no file format beyond the block sizes.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};

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

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(Arc::new(bytes))
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len)
    }
}

/// The blocks of a matrix, row by row.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Blocks<'a> {
    #[inline(always)]
    pub fn row(self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    #[error("a {0} weight cannot be computed here")]
    Unsupported(GgmlType),
    #[error("a {0} weight can be computed on the CPU only: there is no CUDA or Metal kernel for it")]
    CpuOnly(GgmlType),
    #[error("a {ty} weight of {rows} x {cols} needs {wanted} bytes, {got} given")]
    Size { ty: GgmlType, rows: usize, cols: usize, wanted: usize, got: usize },
    #[error("a {ty} weight of {rows} x {cols} is beyond any address space")]
    Overflow { ty: GgmlType, rows: usize, cols: usize },
    #[error("a row of {cols} weights is not a multiple of the {ty} block, {block}", block = ty.block_size())]
    Columns { ty: GgmlType, cols: usize },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A weight matrix `[rows N, cols K]`, row-major, in its GGUF block format. On CPU the bytes are used where they lie;
/// on CUDA and Metal they are also uploaded, as a Candle quantized tensor. Candle has no IQ, TQ and MXFP4 products: there such a
/// weight is refused. (Widened to F16 it would take four to ten times what the file says, and break the memory plan.)
#[derive(Debug, Clone)]
pub struct Weight {
    bytes: SharedBytes,
    ty: GgmlType,
    rows: usize,
    cols: usize,
    device: Device,
    on_device: Option<QMatMul>,
}

impl Weight {
    /// `bytes` must be exactly `rows` rows of `cols` weights. Errors: a type without a kernel, a row that is no whole number
    /// of blocks, a wrong number of bytes, a type that the device has no kernel for, a device that refuses the upload.
    pub fn new(bytes: SharedBytes, ty: GgmlType, rows: usize, cols: usize, device: &Device) -> Result<Self, WeightError> {
        if !ty.is_computed() {
            return Err(WeightError::Unsupported(ty));
        }
        if !cols.is_multiple_of(ty.block_size()) {
            return Err(WeightError::Columns { ty, cols });
        }
        let overflow = WeightError::Overflow { ty, rows, cols };
        let Some(wanted) = ty.row_bytes(cols).and_then(|row| row.checked_mul(rows)) else { return Err(overflow) };
        let got = bytes.as_slice().len();
        if wanted != got {
            return Err(WeightError::Size { ty, rows, cols, wanted, got });
        }
        let on_device = match device {
            Device::Cpu => None,
            Device::Cuda(_) | Device::Metal(_) => Some(upload(bytes.as_slice(), ty, rows, cols, device)?),
        };
        Ok(Self { bytes, ty, rows, cols, device: device.clone(), on_device })
    }

    /// `count` matrices that lie one after the other in `bytes`, as GGUF keeps the experts of a mixture: each is a window of
    /// `bytes`, nothing is copied. Errors as [`Self::new`]'s.
    pub fn stack(
        bytes: &SharedBytes,
        ty: GgmlType,
        count: usize,
        (rows, cols): (usize, usize),
        device: &Device,
    ) -> Result<Vec<Self>, WeightError> {
        if !cols.is_multiple_of(ty.block_size()) {
            return Err(WeightError::Columns { ty, cols });
        }
        let one = ty.row_bytes(cols).and_then(|row| row.checked_mul(rows)).ok_or(WeightError::Overflow { ty, rows, cols })?;
        let window = |index: usize| {
            let wrong =
                || WeightError::Size { ty, rows: rows.saturating_mul(count), cols, wanted: one.saturating_mul(count), got: bytes.len };
            let window = index.checked_mul(one).and_then(|start| bytes.slice(start, one)).ok_or_else(wrong)?;
            if one.checked_mul(count) != Some(bytes.len) { Err(wrong()) } else { Self::new(window, ty, rows, cols, device) }
        };
        (0..count).map(window).collect()
    }

    /// Output width `N`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input width `K`.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn ggml_type(&self) -> GgmlType {
        self.ty
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The blocks, in host memory on every device.
    pub fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }

    /// The blocks of row `row`.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        self.blocks().row(row)
    }

    /// All blocks: for a kernel that takes row after row, and asks the owner of the bytes for them once.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        Blocks { bytes: self.bytes.as_slice(), row_bytes: self.cols / self.ty.block_size() * self.ty.block_bytes() }
    }

    /// The uploaded matrix; `None` on CPU.
    pub(crate) fn on_device(&self) -> Option<&QMatMul> {
        self.on_device.as_ref()
    }
}

/// The matrix as Candle's quantized tensor on `device`, the bytes going straight from where they lie.
fn upload(bytes: &[u8], ty: GgmlType, rows: usize, cols: usize, device: &Device) -> Result<QMatMul, WeightError> {
    let dtype = match ty {
        GgmlType::F32 => GgmlDType::F32,
        GgmlType::F16 => GgmlDType::F16,
        GgmlType::BF16 => GgmlDType::BF16,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q2K => GgmlDType::Q2K,
        GgmlType::Q3K => GgmlDType::Q3K,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
        other => return Err(WeightError::CpuOnly(other)),
    };
    // Candle views the bytes as its own block structs and insists on their alignment, 4 at most; a file may be packed tighter.
    let mut aligned: Vec<u32> = Vec::new();
    let data = if bytes.as_ptr().align_offset(align_of::<u32>()) == 0 {
        bytes
    } else {
        aligned.extend(bytes.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        }));
        // SAFETY: `aligned` holds at least `bytes.len()` initialised bytes, and any byte is a valid u8.
        unsafe { std::slice::from_raw_parts(aligned.as_ptr().cast::<u8>(), bytes.len()) }
    };
    let storage = QStorage::from_data(Cow::Borrowed(data), device, dtype)?;
    let tensor = QTensor::new(storage, (rows, cols))?;
    Ok(QMatMul::from_arc(Arc::new(tensor))?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Module, Tensor};

    use super::*;

    /// The upload's types and layout, checked where it needs no device: Candle's own CPU product of the same bytes.
    #[test]
    fn candle_reads_the_same_matrix() {
        let values: Vec<f32> = (0..40 * 256).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 300.0).collect();
        let x = Tensor::from_vec(values[..2 * 256].to_vec(), (2, 256), &Device::Cpu).expect("sizes fit");
        let mut refused = Vec::new();
        for ty in GgmlType::COMPUTED {
            if let Err(error) = upload(&[], ty, 0, 256, &Device::Cpu) {
                assert!(matches!(error, WeightError::CpuOnly(named) if named == ty), "{ty}: {error}");
                refused.push(ty);
                continue;
            }
            let mut bytes = crate::quantize::quantize(ty, &values).expect("whole blocks");
            let uploaded = |bytes: &[u8]| upload(bytes, ty, 40, 256, &Device::Cpu).expect("Candle knows the type");
            let y = uploaded(&bytes).forward(&x).expect("shapes fit").to_vec2::<f32>().expect("f32");
            let weight = Weight::new(bytes.clone().into(), ty, 40, 256, &Device::Cpu).expect("sizes fit");
            let plain = crate::reference::linear::linear(&x, &weight, None).expect("shapes fit").to_vec2::<f32>().expect("f32");
            for (y, plain) in y.iter().flatten().zip(plain.iter().flatten()) {
                assert!((y - plain).abs() < 1.0, "{ty}: {y} is not {plain}");
            }
            // The same from an odd address.
            bytes.insert(0, 0);
            let shifted = uploaded(&bytes[1..]).forward(&x).expect("shapes fit").to_vec2::<f32>().expect("f32");
            assert_eq!(shifted, y, "{ty}");
        }
        use GgmlType::*;
        assert_eq!(refused, [IQ4NL, IQ4XS, MXFP4, IQ3S, IQ3XXS, IQ2S, IQ2XS, IQ2XXS, IQ1M, IQ1S, TQ1_0, TQ2_0]);
    }
}
