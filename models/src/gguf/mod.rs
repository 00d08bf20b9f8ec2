//! The GGUF reader: what a model file holds, checked before it is believed, and used where it lies.
//!
//! Invariant: every byte range handed out lies inside its file, is as long as its type and shape say, and shares nothing with
//! another tensor. Knows no model family: which keys and tensors matter is for `config` and `families` to say.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kernels::blocks::dequantize;
use kernels::{GgmlType, SharedBytes, Weight, WeightError};

mod copy;
mod cursor;
mod error;
mod file;
pub(crate) mod map;
mod metadata;
mod shards;
#[cfg(feature = "testing")]
pub mod writer;

pub use copy::WeightCopy;
pub use error::{GgufError, GgufProblem};
pub use map::FileIdentity;
pub use metadata::{Array, FromValue, Value, ValueType};

use file::{File, read_file};
use map::MappedFile;
use shards::ShardName;

/// A GGUF file (or all parts of a split one), mapped.
#[derive(Debug)]
pub struct Gguf {
    /// The (first) file's name, for errors.
    name: String,
    version: u32,
    file_bytes: u64,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    /// Each tensor's place in `tensors`.
    index: HashMap<String, usize>,
    /// What the tensors' bytes and the metadata's arrays lie in; empty for a file that was in memory already.
    maps: Vec<Arc<MappedFile>>,
}

#[derive(Debug, Clone)]
pub struct TensorInfo {
    pub name: String,
    pub ty: GgmlType,
    /// Sizes in ggml order: the first is the row length.
    pub shape: Vec<usize>,
    bytes: SharedBytes,
}

impl TensorInfo {
    /// The tensor's blocks where they lie.
    pub fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Gguf {
    /// Opens a file; where it is one part of a split model (`NAME-00001-of-00003.gguf`, any of them), all its parts.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let (map, file) = open_one(path)?;
        let name = path.display().to_string();
        let count = split_number(&file, "split.count").map_err(|problem| problem.in_file(&name))?.unwrap_or(1);
        if count <= 1 {
            return Ok(Self::of_map(name, map, file));
        }
        let shard = match ShardName::parse(path) {
            Some(shard) if shard.count == count => shard,
            _ => return Err(GgufProblem::ShardName { count }.in_file(&name)),
        };
        open_parts(path, &shard)
    }

    /// Reads a file already in memory (the built-in model); `name` is for errors.
    pub fn from_bytes(bytes: SharedBytes, name: &str) -> Result<Self, GgufError> {
        let file = read_file(&bytes).map_err(|problem| problem.in_file(name))?;
        match split_number(&file, "split.count").map_err(|problem| problem.in_file(name))? {
            Some(count) if count > 1 => Err(GgufProblem::ShardInMemory(count).in_file(name)),
            _ => Ok(Self::assemble(name.to_owned(), bytes.as_slice().len() as u64, file)),
        }
    }

    /// The (first) file's name as it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of the GGUF format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Size of the file, or of all parts together.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The file, or every part of a split one, where it is mapped; none for a file that was in memory already.
    pub fn files(&self) -> Vec<(SharedBytes, Option<FileIdentity>)> {
        self.maps.iter().map(|map| (SharedBytes::new(map.clone()), map.identity)).collect()
    }

    /// Size of all tensors together.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes.as_slice().len() as u64).sum()
    }

    /// `None` where the key is absent.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// All metadata in the order of the keys.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A metadata value that may be absent. Error: it is there and of another type (or an integer that does not fit).
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.error(GgufProblem::WrongType { key: key.to_owned(), wanted: T::WANTED, found: value.describe() })),
        }
    }

    /// A metadata value that must be there: `let layers: usize = gguf.require("llama.block_count")?`.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.get(key)?.ok_or_else(|| self.error(GgufProblem::MissingKey(key.to_owned())))
    }

    /// All tensors in the order of the file(s).
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// `None` where the tensor is absent.
    pub fn find_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|index| &self.tensors[*index])
    }

    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.find_tensor(name).ok_or_else(|| self.error(GgufProblem::MissingTensor(name.to_owned())))
    }

    /// Copies every tensor, on all threads of the pool, into memory on huge pages where the system has them, and uses the copy from then
    /// on; what was mapped leaves this process' memory. Errors: the memory is not to be had.
    pub fn copy_weights(&mut self) -> Result<WeightCopy, GgufError> {
        let copied = copy::copy_tensors(&mut self.tensors).map_err(|source| self.error(GgufProblem::Io(source)))?;
        self.maps.iter().for_each(|map| map.let_go());
        Ok(copied)
    }

    /// The weight matrix `name`, `[shape[1], shape[0]]`, where it lies. Errors: absent, not of two dimensions, a type that cannot
    /// be computed (by tensor name).
    pub fn weight(&self, name: &str, device: &Device) -> Result<Weight, GgufError> {
        let tensor = self.tensor(name)?;
        let &[cols, rows] = tensor.shape.as_slice() else {
            return Err(self.error(GgufProblem::Dimensions { name: name.to_owned(), found: tensor.shape.len(), wanted: "2" }));
        };
        Weight::new(tensor.bytes.clone(), tensor.ty, rows, cols, device)
            .map_err(|source| self.error(GgufProblem::Weight { name: name.to_owned(), source }))
    }

    /// The tensor `name` as `count` matrices of `rows` x `cols` one after the other, each where it lies. Errors: absent, of another
    /// size, a type that cannot be computed (by tensor name).
    pub fn stack(&self, name: &str, count: usize, (rows, cols): (usize, usize), device: &Device) -> Result<Vec<Weight>, GgufError> {
        let tensor = self.tensor(name)?;
        Weight::stack(&tensor.bytes, tensor.ty, count, (rows, cols), device)
            .map_err(|source| self.error(GgufProblem::Weight { name: name.to_owned(), source }))
    }

    /// A small tensor (norm, bias) as f32 on the device, in Candle's order of sizes (rows first). Errors: absent, a type that
    /// cannot be computed (by tensor name).
    pub fn dense_f32(&self, name: &str, device: &Device) -> Result<Tensor, GgufError> {
        let tensor = self.tensor(name)?;
        if !tensor.ty.is_computed() {
            let source = WeightError::Unsupported(tensor.ty);
            return Err(self.error(GgufProblem::Weight { name: name.to_owned(), source }));
        }
        let mut values = vec![0.0; tensor.elements()];
        dequantize(tensor.ty, tensor.bytes.as_slice(), &mut values);
        let shape: Vec<usize> = tensor.shape.iter().rev().copied().collect();
        Tensor::from_vec(values, shape, device)
            .map_err(|source| self.error(GgufProblem::Weight { name: name.to_owned(), source: source.into() }))
    }

    /// An error about this file, for who finds its contents wanting (a family, the tokenizer).
    pub fn error(&self, problem: GgufProblem) -> GgufError {
        problem.in_file(&self.name)
    }

    fn assemble(name: String, file_bytes: u64, file: File) -> Self {
        let tensors: Vec<TensorInfo> = file.tensors.into_iter().map(TensorInfo::from).collect();
        let index = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Self { name, version: file.version, file_bytes, metadata: file.metadata, tensors, index, maps: Vec::new() }
    }

    fn of_map(name: String, map: Arc<MappedFile>, file: File) -> Self {
        let file_bytes = (*map).as_ref().len() as u64;
        Self { maps: vec![map], ..Self::assemble(name, file_bytes, file) }
    }
}

impl From<file::Entry> for TensorInfo {
    fn from(entry: file::Entry) -> Self {
        Self { name: entry.name, ty: entry.ty, shape: entry.shape, bytes: entry.bytes }
    }
}

fn open_one(path: &Path) -> Result<(Arc<MappedFile>, File), GgufError> {
    let name = path.display().to_string();
    let map = Arc::new(map::map(path).map_err(|source| GgufProblem::Io(source).in_file(&name))?);
    let file = read_file(&SharedBytes::new(map.clone())).map_err(|problem| problem.in_file(&name))?;
    Ok((map, file))
}

/// Opens every part; the first one's metadata is the model's, the tensors are everybody's.
fn open_parts(path: &Path, shard: &ShardName) -> Result<Gguf, GgufError> {
    let first_path = shard.sibling(path, 1);
    let mut whole: Option<Gguf> = None;
    for number in 1..=shard.count {
        let part_path = shard.sibling(path, number);
        let name = part_path.display().to_string();
        let (map, file) = open_one(&part_path).map_err(|error| match *error.problem {
            GgufProblem::Io(source) => GgufProblem::ShardMissing { number, count: shard.count, source }.in_file(&name),
            other => other.in_file(&name),
        })?;
        check_part(&file, number, shard.count).map_err(|problem| problem.in_file(&name))?;
        let part = Gguf::of_map(name, map, file);
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => whole.join(part)?,
        }
    }
    let whole = whole.expect("a split model has a first part");
    let found = whole.tensors.len() as u64;
    match whole.get::<u64>("split.tensors.count")? {
        Some(wanted) if wanted != found => Err(GgufProblem::ShardTensors { found, wanted }.in_file(&first_path.display().to_string())),
        _ => Ok(whole),
    }
}

/// `number` counts from 1, as file names do; `split.no` counts from 0.
fn check_part(file: &File, number: u64, count: u64) -> Result<(), GgufProblem> {
    match split_number(file, "split.count")? {
        Some(found) if found == count => {}
        found => return Err(GgufProblem::ShardCount { found: found.unwrap_or(1), wanted: count }),
    }
    match split_number(file, "split.no")? {
        Some(found) if found.checked_add(1) == Some(number) => Ok(()),
        Some(found) => Err(GgufProblem::ShardNumber { found: found.saturating_add(1), wanted: number }),
        None => Err(GgufProblem::MissingKey("split.no".to_owned())),
    }
}

fn split_number(file: &File, key: &str) -> Result<Option<u64>, GgufProblem> {
    let Some(value) = file.metadata.get(key) else { return Ok(None) };
    match value.as_u64() {
        Some(number) => Ok(Some(number)),
        None => Err(GgufProblem::WrongType { key: key.to_owned(), wanted: "u16", found: value.describe() }),
    }
}

impl Gguf {
    /// Takes the tensors of a further part.
    fn join(&mut self, part: Self) -> Result<(), GgufError> {
        self.file_bytes += part.file_bytes;
        self.maps.extend(part.maps);
        for tensor in part.tensors {
            if self.index.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                return Err(GgufProblem::DuplicateTensor(tensor.name).in_file(&part.name));
            }
            self.tensors.push(tensor);
        }
        Ok(())
    }
}
