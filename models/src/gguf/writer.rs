//! Writes GGUF files, for tests and benches: well-formed ones, and on request files that lie. Not in the product (feature `testing`).

use std::io::{self, Write};

use kernels::GgmlType;

/// What goes into a metadata value; converts from the Rust types below with `into()`.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Vec<u8>),
    U64(u64),
    I64(i64),
    F64(f64),
    /// All of one kind, which an empty array must still name: by its type number.
    Array(u32, Vec<Entry>),
}

macro_rules! entry_from {
    ($($variant:ident($ty:ty) = $number:literal),*) => {
        $(
            impl From<$ty> for Entry {
                fn from(value: $ty) -> Self {
                    Self::$variant(value)
                }
            }
            impl From<Vec<$ty>> for Entry {
                fn from(values: Vec<$ty>) -> Self {
                    Self::Array($number, values.into_iter().map(Self::$variant).collect())
                }
            }
        )*
    };
}
entry_from!(U8(u8) = 0, I8(i8) = 1, U16(u16) = 2, I16(i16) = 3, U32(u32) = 4, I32(i32) = 5, F32(f32) = 6, Bool(bool) = 7);
entry_from!(U64(u64) = 10, I64(i64) = 11, F64(f64) = 12);

impl From<&str> for Entry {
    fn from(value: &str) -> Self {
        Self::String(value.as_bytes().to_vec())
    }
}

impl From<String> for Entry {
    fn from(value: String) -> Self {
        Self::String(value.into_bytes())
    }
}

impl<S: AsRef<str>> From<&[S]> for Entry {
    fn from(values: &[S]) -> Self {
        Self::Array(8, values.iter().map(|value| value.as_ref().into()).collect())
    }
}

impl From<Vec<String>> for Entry {
    fn from(values: Vec<String>) -> Self {
        values.as_slice().into()
    }
}

impl From<Vec<&str>> for Entry {
    fn from(values: Vec<&str>) -> Self {
        values.as_slice().into()
    }
}

/// Writes a tensor's bytes when its turn comes, so that a file larger than memory can be made.
pub type Produce = Box<dyn Fn(&mut dyn Write) -> io::Result<()>>;

enum Data {
    Bytes(Vec<u8>),
    Produced { len_bytes: u64, produce: Produce },
}

struct PlannedTensor {
    name: String,
    type_number: u32,
    shape: Vec<u64>,
    data: Data,
    /// Written instead of the true one.
    offset: Option<u64>,
}

/// A GGUF file in the making: version 3, alignment 32 unless told otherwise.
///
/// ```
/// use kernels::GgmlType;
/// use models::gguf::writer::GgufWriter;
/// let mut writer = GgufWriter::new();
/// writer.set("general.architecture", "llama").set("llama.block_count", 2u32);
/// writer.tensor("output_norm.weight", GgmlType::F32, &[4], vec![0; 16]);
/// let bytes = writer.to_bytes();
/// assert_eq!(&bytes[..4], b"GGUF");
/// ```
pub struct GgufWriter {
    version: u32,
    alignment: u64,
    metadata: Vec<(String, Entry)>,
    tensors: Vec<PlannedTensor>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// 2 and 3 differ in the number alone.
    pub fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Of the tensors, in bytes; also written as `general.alignment`.
    pub fn alignment(&mut self, alignment: u32) -> &mut Self {
        self.alignment = alignment.into();
        self.set("general.alignment", alignment)
    }

    /// Sets a key, or replaces it.
    pub fn set(&mut self, key: &str, value: impl Into<Entry>) -> &mut Self {
        let value = value.into();
        match self.metadata.iter_mut().find(|(present, _)| present == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    /// Takes a key away.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(present, _)| present != key);
        self
    }

    /// A tensor; `shape` in ggml order (row length first), `bytes` its blocks.
    pub fn tensor(&mut self, name: &str, ty: GgmlType, shape: &[usize], bytes: Vec<u8>) -> &mut Self {
        assert_eq!(Some(bytes.len() as u64), size_bytes(ty, shape), "{name}: bytes for the shape {shape:?}");
        self.plan(name, ty.number(), shape.iter().map(|size| *size as u64).collect(), Data::Bytes(bytes), None)
    }

    /// An f32 tensor.
    pub fn tensor_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        self.tensor(name, GgmlType::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A tensor whose bytes are made when the file is written; `produce` must write exactly as many as type and shape need.
    pub fn tensor_produced(&mut self, name: &str, ty: GgmlType, shape: &[usize], produce: Produce) -> &mut Self {
        let len_bytes = size_bytes(ty, shape).expect("whole blocks");
        self.plan(name, ty.number(), shape.iter().map(|size| *size as u64).collect(), Data::Produced { len_bytes, produce }, None)
    }

    /// A tensor of which nothing is checked: any type number, any shape, and an offset that may lie.
    pub fn tensor_unchecked(&mut self, name: &str, type_number: u32, shape: &[u64], bytes: Vec<u8>, offset: Option<u64>) -> &mut Self {
        self.plan(name, type_number, shape.to_vec(), Data::Bytes(bytes), offset)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes).expect("a vector takes everything");
        bytes
    }

    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let head = self.head();
        out.write_all(&head)?;
        out.write_all(&vec![0; padding(head.len() as u64, self.alignment)])?;
        for tensor in &self.tensors {
            match &tensor.data {
                Data::Bytes(bytes) => out.write_all(bytes)?,
                Data::Produced { len_bytes, produce } => {
                    let mut counted = Counted { out, written_bytes: 0 };
                    produce(&mut counted)?;
                    assert_eq!(counted.written_bytes, *len_bytes, "{}: bytes produced", tensor.name);
                }
            }
            out.write_all(&vec![0; padding(tensor.data.len_bytes(), self.alignment)])?;
        }
        Ok(())
    }

    /// Everything before the tensor data.
    fn head(&self) -> Vec<u8> {
        let mut head = b"GGUF".to_vec();
        head.extend(self.version.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut head, key.as_bytes());
            head.extend(value.type_number().to_le_bytes());
            value.put(&mut head);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_string(&mut head, tensor.name.as_bytes());
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|size| head.extend(size.to_le_bytes()));
            head.extend(tensor.type_number.to_le_bytes());
            head.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += tensor.data.len_bytes().next_multiple_of(self.alignment);
        }
        head
    }

    fn plan(&mut self, name: &str, type_number: u32, shape: Vec<u64>, data: Data, offset: Option<u64>) -> &mut Self {
        self.tensors.push(PlannedTensor { name: name.to_owned(), type_number, shape, data, offset });
        self
    }
}

impl Data {
    fn len_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Produced { len_bytes, .. } => *len_bytes,
        }
    }
}

impl Entry {
    fn type_number(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(..) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(value) => out.extend(value.to_le_bytes()),
            Self::I8(value) => out.extend(value.to_le_bytes()),
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::I16(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::String(bytes) => put_string(out, bytes),
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::F64(value) => out.extend(value.to_le_bytes()),
            Self::Array(element, values) => {
                out.extend(element.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.put(out));
            }
        }
    }
}

/// Counts what goes through.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written_bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// `None` where a row is not whole blocks.
fn size_bytes(ty: GgmlType, shape: &[usize]) -> Option<u64> {
    let (row, rows) = shape.split_first()?;
    Some((ty.row_bytes(*row)? * rows.iter().product::<usize>()) as u64)
}

fn padding(len_bytes: u64, alignment: u64) -> usize {
    (len_bytes.next_multiple_of(alignment) - len_bytes) as usize
}
