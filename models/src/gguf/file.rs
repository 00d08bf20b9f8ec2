//! One GGUF file: header, metadata, tensor table, and where its tensor data starts. Everything it says is checked against the
//! file's real size before it is believed. Knows no shards and computes nothing.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::{BTreeMap, HashSet};

use kernels::{GgmlType, SharedBytes};

use super::cursor::Cursor;
use super::error::GgufProblem;
use super::metadata::{Value, read_metadata};

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_DEFAULT: u64 = 32;
const DIMENSIONS_MAX: u32 = 4;

#[derive(Debug)]
pub(super) struct File {
    pub(super) version: u32,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<Entry>,
}

/// A tensor as the table has it, checked.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) ty: GgmlType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: SharedBytes,
}

/// A tensor as the table has it, before the size of the data is known.
struct Claim {
    name: String,
    ty: GgmlType,
    shape: Vec<usize>,
    len_bytes: u64,
    offset: u64,
}

pub(super) fn read_file(bytes: &SharedBytes) -> Result<File, GgufProblem> {
    let mut cursor = Cursor::new(bytes.as_slice(), 0);
    let version = read_version(&mut cursor, bytes.as_slice())?;
    let tensor_count = cursor.u64(|| "the header".to_owned())?;
    let metadata_count = cursor.u64(|| "the header".to_owned())?;
    let metadata = read_metadata(&mut cursor, bytes, metadata_count)?;
    let alignment = read_alignment(&metadata)?;
    let claims = read_table(&mut cursor, tensor_count)?;
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    let tensors = place(claims, bytes, data_start, alignment)?;
    Ok(File { version, metadata, tensors })
}

fn read_version(cursor: &mut Cursor<'_>, file: &[u8]) -> Result<u32, GgufProblem> {
    if !file.starts_with(MAGIC) {
        return Err(GgufProblem::NotGguf { hint: what_else(&file[..file.len().min(64)]) });
    }
    cursor.take(MAGIC.len() as u64, || "the header".to_owned())?;
    let version = cursor.u32(|| "the header".to_owned())?;
    match version {
        2 | 3 => Ok(version),
        // Big-endian files have the same four letters and everything else the other way round.
        swapped if (1..=0xffff).contains(&swapped.swap_bytes()) => Err(GgufProblem::BigEndian),
        other => Err(GgufProblem::Version(other)),
    }
}

/// What the first bytes look like instead, where that is cheap to say.
fn what_else(head: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    if head.is_empty() {
        " (it is empty)"
    } else if head.iter().all(|byte| *byte == 0) {
        " (it starts with zeros; the download may be incomplete)"
    } else if head.starts_with(b"FUGG") {
        " (it is a byte-swapped, big-endian one; convert the model again for a little-endian machine)"
    } else if [b"ggml", b"ggmf", b"ggjt", b"lmgg", b"fmgg", b"tjgg"].iter().any(|magic| head.starts_with(*magic)) {
        " (it is a GGML file from before August 2023; convert the model again)"
    } else if head.starts_with(b"PK") {
        " (it is a zip archive or a PyTorch checkpoint)"
    } else if head.get(8..10) == Some(b"{\"") {
        " (it looks like a safetensors file; convert the model to GGUF)"
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        " (it is an HTML page; the download went wrong)"
    } else if text.starts_with("version https://git-lfs") {
        " (it is a Git LFS pointer; fetch the real file with git lfs pull)"
    } else if text.starts_with('{') {
        " (it looks like JSON)"
    } else if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        " (it is compressed; unpack it first)"
    } else {
        ": it does not start with the letters GGUF"
    }
}

fn read_alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufProblem> {
    let key = "general.alignment";
    let Some(value) = metadata.get(key) else { return Ok(ALIGNMENT_DEFAULT) };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 30 => Ok(alignment),
        Some(_) => Err(GgufProblem::BadValue { key: key.to_owned(), found: value.describe(), why: "a power of two wanted" }),
        None => Err(GgufProblem::WrongType { key: key.to_owned(), wanted: "u32", found: value.describe() }),
    }
}

fn read_table(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Claim>, GgufProblem> {
    // The shortest entry: name length (8), number of dimensions (4), one of them (8), type (4), offset (8).
    let count = cursor.check_count(count, 32, || "the tensor table".to_owned())?;
    let mut names = HashSet::new();
    let mut claims = Vec::new();
    for index in 0..count {
        let name = cursor.string(|| format!("the name of tensor number {}", index + 1))?;
        if !names.insert(name) {
            return Err(GgufProblem::DuplicateTensor(name.to_owned()));
        }
        claims.push(read_claim(cursor, name)?);
    }
    Ok(claims)
}

fn read_claim(cursor: &mut Cursor<'_>, name: &str) -> Result<Claim, GgufProblem> {
    let what = || format!("the table entry of tensor {name:?}");
    let dimensions = cursor.u32(what)?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(GgufProblem::DimensionCount { name: name.to_owned(), count: dimensions });
    }
    let shape = (0..dimensions).map(|_| cursor.u64(what)).collect::<Result<Vec<u64>, _>>()?;
    let number = cursor.u32(what)?;
    let offset = cursor.u64(what)?;
    if shape.contains(&0) {
        return Err(GgufProblem::EmptyDimension { name: name.to_owned(), shape });
    }
    let ty = GgmlType::from_number(number).ok_or_else(|| GgufProblem::UnknownTensorType { name: name.to_owned(), number })?;
    let block = ty.block_size();
    if !shape[0].is_multiple_of(block as u64) {
        return Err(GgufProblem::BrokenBlock { name: name.to_owned(), row: shape[0], ty: ty.name(), block });
    }
    let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let len_bytes = elements.and_then(|elements| (elements / block as u64).checked_mul(ty.block_bytes() as u64));
    let Some(len_bytes) = len_bytes else { return Err(GgufProblem::ImpossibleShape { name: name.to_owned(), shape }) };
    let shape = shape.iter().map(|size| *size as usize).collect();
    Ok(Claim { name: name.to_owned(), ty, shape, len_bytes, offset })
}

/// Checks every tensor's place in the data, and that no two share bytes.
fn place(claims: Vec<Claim>, file: &SharedBytes, data_start: u64, alignment: u64) -> Result<Vec<Entry>, GgufProblem> {
    let data_bytes = (file.as_slice().len() as u64).saturating_sub(data_start);
    let mut by_offset: Vec<&Claim> = claims.iter().collect();
    by_offset.sort_by_key(|claim| claim.offset);
    for claim in &claims {
        let (name, offset, len_bytes) = (|| claim.name.clone(), claim.offset, claim.len_bytes);
        if !offset.is_multiple_of(alignment) {
            return Err(GgufProblem::Unaligned { name: name(), offset, alignment });
        }
        if offset.checked_add(len_bytes).is_none_or(|end| end > data_bytes) {
            return Err(GgufProblem::OutsideFile { name: name(), offset, len_bytes, data_bytes });
        }
    }
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].len_bytes > pair[1].offset {
            return Err(GgufProblem::Overlap { first: pair[0].name.clone(), second: pair[1].name.clone() });
        }
    }
    let entries = claims.into_iter().map(|claim| {
        let bytes = file.slice((data_start + claim.offset) as usize, claim.len_bytes as usize).expect("inside the file, checked above");
        Entry { name: claim.name, ty: claim.ty, shape: claim.shape, bytes }
    });
    Ok(entries.collect())
}
