//! What can be wrong with a GGUF file, in words that name the file, the key or the tensor.

use kernels::WeightError;

/// A problem and the file it is in. Reads as `model.gguf: metadata key "llama.block_count" is missing`.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct GgufError {
    pub file: String,
    /// Boxed, so that a result with it stays small.
    pub problem: Box<GgufProblem>,
}

#[derive(Debug, thiserror::Error)]
pub enum GgufProblem {
    #[error("cannot be opened: {0}")]
    Io(#[from] std::io::Error),
    #[error("is not a GGUF file{hint}")]
    NotGguf { hint: &'static str },
    #[error("is a big-endian GGUF file; only little-endian files can be read: convert the model again for a little-endian machine")]
    BigEndian,
    #[error("has GGUF version {0}; versions 2 and 3 can be read")]
    Version(u32),
    #[error("is cut off: {what} needs {needed_bytes} bytes at offset {at}, and only {left_bytes} are left; the download may be incomplete")]
    CutOff { what: String, at: u64, needed_bytes: u64, left_bytes: u64 },
    #[error("{what} would hold {count} entries, more than the rest of the file can ({left_bytes} bytes)")]
    AbsurdCount { what: String, count: u64, left_bytes: u64 },
    #[error("{what} is not valid UTF-8")]
    NotUtf8 { what: String },

    #[error("metadata key {0:?} is missing")]
    MissingKey(String),
    #[error("metadata key {key:?} has the wrong type: {wanted} wanted, {found} found")]
    WrongType { key: String, wanted: &'static str, found: String },
    #[error("metadata key {key:?} is {found}: {why}")]
    BadValue { key: String, found: String, why: &'static str },
    #[error("metadata key {0:?} appears twice")]
    DuplicateKey(String),
    #[error("metadata key {key:?} has the unknown value type {number}")]
    UnknownValueType { key: String, number: u32 },
    #[error("metadata key {0:?} nests arrays too deeply")]
    NestedTooDeeply(String),

    #[error("tensor {0:?} is missing")]
    MissingTensor(String),
    #[error("tensor {0:?} appears twice")]
    DuplicateTensor(String),
    #[error("tensor {name:?} has the unknown ggml type {number}; a newer version of this program may know it")]
    UnknownTensorType { name: String, number: u32 },
    #[error("tensor {name:?} has {count} dimensions; 1 to 4 are possible")]
    DimensionCount { name: String, count: u32 },
    #[error("tensor {name:?} has a dimension of size 0 (shape {shape:?})")]
    EmptyDimension { name: String, shape: Vec<u64> },
    #[error("tensor {name:?} has the impossible shape {shape:?}: its size does not fit in 64 bits")]
    ImpossibleShape { name: String, shape: Vec<u64> },
    #[error("tensor {name:?} has rows of {row} elements, not a multiple of the {ty} block of {block}")]
    BrokenBlock { name: String, row: u64, ty: &'static str, block: usize },
    #[error("tensor {name:?} has offset {offset}, not a multiple of the alignment {alignment}")]
    Unaligned { name: String, offset: u64, alignment: u64 },
    #[error(
        "tensor {name:?} lies outside the file: it needs {len_bytes} bytes at offset {offset} of the tensor data, which has {data_bytes}; the download may be incomplete"
    )]
    OutsideFile { name: String, offset: u64, len_bytes: u64, data_bytes: u64 },
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap { first: String, second: String },
    #[error("tensor {name:?} has {found} dimensions, {wanted} wanted")]
    Dimensions { name: String, found: usize, wanted: &'static str },
    #[error("tensor {name:?}: {source}")]
    Weight { name: String, source: WeightError },

    #[error("is a part of a split model, whose parts must be named NAME-00001-of-{count:05}.gguf and so on, side by side")]
    ShardName { count: u64 },
    #[error("says it is part {found} of the split model, {wanted} wanted from its name")]
    ShardNumber { found: u64, wanted: u64 },
    #[error("says the model has {found} parts, the first part says {wanted}")]
    ShardCount { found: u64, wanted: u64 },
    #[error("part {number} of {count} of the model is missing: {source}")]
    ShardMissing { number: u64, count: u64, source: std::io::Error },
    #[error("the parts of the model hold {found} tensors, {wanted} wanted")]
    ShardTensors { found: u64, wanted: u64 },
    #[error("is one part of a split model of {0}; a model in memory must be whole")]
    ShardInMemory(u64),
}

impl GgufProblem {
    pub(crate) fn in_file(self, file: &str) -> GgufError {
        GgufError { file: file.to_owned(), problem: Box::new(self) }
    }
}
