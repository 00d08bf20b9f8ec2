//! GGUF metadata: 13 kinds of value behind string keys. Arrays stay where the file lies: a vocabulary of 150,000 strings costs
//! one offset each, not one allocation each. Knows no key by name.

use std::collections::BTreeMap;

use kernels::SharedBytes;

use super::cursor::Cursor;
use super::error::GgufProblem;

/// Arrays of arrays of ... this deep; no known file nests even two.
const NESTING_MAX: usize = 4;

/// A metadata value.
#[derive(Debug, Clone)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    /// A string whose bytes are not UTF-8: an error only for who wants to read it.
    StringNotUtf8(Vec<u8>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// The type numbers of the GGUF specification ("gguf_metadata_value_type").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// Bytes of one value in the file; of a string or an array, the fewest possible.
    fn bytes_min(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// An array where it lies in the file.
#[derive(Debug, Clone)]
pub struct Array {
    element: ValueType,
    len: usize,
    /// The elements' bytes, without the array's own header.
    bytes: SharedBytes,
    /// Where each string or nested array starts in `bytes`; empty for numbers, whose place is a product.
    starts: Vec<u64>,
}

impl Array {
    pub fn element(&self) -> ValueType {
        self.element
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of string `index`; `None` where the array holds no strings or is shorter.
    pub fn string_bytes(&self, index: usize) -> Option<&[u8]> {
        if self.element != ValueType::String {
            return None;
        }
        let start = *self.starts.get(index)? as usize;
        let bytes = self.bytes.as_slice();
        let len_bytes = u64::from_le_bytes(bytes[start..start + 8].try_into().expect("8 bytes")) as usize;
        Some(&bytes[start + 8..start + 8 + len_bytes])
    }

    /// Every string's bytes, in order; empty where the array holds no strings.
    pub fn strings(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let len = if self.element == ValueType::String { self.len } else { 0 };
        (0..len).map(|index| self.string_bytes(index).expect("index below len"))
    }

    /// The value at `index`, whatever its kind; `None` past the end.
    pub fn get(&self, index: usize) -> Option<Value> {
        if index >= self.len {
            return None;
        }
        let start = match self.element {
            ValueType::String | ValueType::Array => self.starts[index] as usize,
            number => index * number.bytes_min() as usize,
        };
        let mut cursor = Cursor::new(self.bytes.as_slice(), start);
        let value = read_value(&mut cursor, &self.bytes, self.element, "", 0);
        Some(value.expect("elements were checked when the file was read"))
    }

    /// The elements as i64; `None` where they are not integers (or do not fit).
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        (0..self.len).map(|index| self.get(index)?.as_i64()).collect()
    }

    /// The elements as f32; `None` where they are not numbers.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        (0..self.len).map(|index| self.get(index)?.as_f64().map(|value| value as f32)).collect()
    }
}

impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        self.element == other.element && self.len == other.len && self.bytes.as_slice() == other.bytes.as_slice()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::U8(a), Self::U8(b)) => a == b,
            (Self::I8(a), Self::I8(b)) => a == b,
            (Self::U16(a), Self::U16(b)) => a == b,
            (Self::I16(a), Self::I16(b)) => a == b,
            (Self::U32(a), Self::U32(b)) => a == b,
            (Self::I32(a), Self::I32(b)) => a == b,
            (Self::F32(a), Self::F32(b)) => a.to_bits() == b.to_bits(),
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::StringNotUtf8(a), Self::StringNotUtf8(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::U64(a), Self::U64(b)) => a == b,
            (Self::I64(a), Self::I64(b)) => a == b,
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            _ => false,
        }
    }
}

impl Value {
    /// Any integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// Any integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::I64(value) => Some(value),
            _ => self.as_u64()?.try_into().ok(),
        }
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => self.as_i64().map(|value| value as f64),
        }
    }

    /// Type and, for numbers, the value: `u32 7`, `array of 3 string`.
    pub fn describe(&self) -> String {
        match self {
            Self::U8(value) => format!("u8 {value}"),
            Self::I8(value) => format!("i8 {value}"),
            Self::U16(value) => format!("u16 {value}"),
            Self::I16(value) => format!("i16 {value}"),
            Self::U32(value) => format!("u32 {value}"),
            Self::I32(value) => format!("i32 {value}"),
            Self::F32(value) => format!("f32 {value}"),
            Self::Bool(value) => format!("bool {value}"),
            Self::String(_) => "string".to_owned(),
            Self::StringNotUtf8(_) => "string that is not UTF-8".to_owned(),
            Self::Array(array) => format!("array of {} {}", array.len, array.element.name()),
            Self::U64(value) => format!("u64 {value}"),
            Self::I64(value) => format!("i64 {value}"),
            Self::F64(value) => format!("f64 {value}"),
        }
    }
}

/// A Rust type that metadata can be asked for. Integers of any width convert where the value fits; nothing else converts.
pub trait FromValue<'a>: Sized {
    const WANTED: &'static str;
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! unsigned_from_value {
    ($($ty:ty),*) => {$(
        impl FromValue<'_> for $ty {
            const WANTED: &'static str = stringify!($ty);
            fn from_value(value: &Value) -> Option<Self> {
                value.as_u64()?.try_into().ok()
            }
        }
    )*};
}
unsigned_from_value!(u16, u32, u64, usize);

impl FromValue<'_> for i64 {
    const WANTED: &'static str = "i64";
    fn from_value(value: &Value) -> Option<Self> {
        value.as_i64()
    }
}

impl FromValue<'_> for f32 {
    const WANTED: &'static str = "f32";
    fn from_value(value: &Value) -> Option<Self> {
        value.as_f64().map(|value| value as f32)
    }
}

impl FromValue<'_> for f64 {
    const WANTED: &'static str = "f64";
    fn from_value(value: &Value) -> Option<Self> {
        value.as_f64()
    }
}

impl FromValue<'_> for bool {
    const WANTED: &'static str = "bool";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const WANTED: &'static str = "string";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a Array {
    const WANTED: &'static str = "array";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(value) => Some(value),
            _ => None,
        }
    }
}

/// Reads `count` key-value pairs. `file` is the whole file the cursor runs over.
pub(super) fn read_metadata(cursor: &mut Cursor<'_>, file: &SharedBytes, count: u64) -> Result<BTreeMap<String, Value>, GgufProblem> {
    // The shortest pair: key length (8), type (4), a value of one byte.
    let count = cursor.check_count(count, 13, || "the metadata".to_owned())?;
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = cursor.string(|| format!("metadata key number {}", index + 1))?.to_owned();
        let number = cursor.u32(|| format!("metadata key {key:?}"))?;
        let ty = ValueType::from_number(number).ok_or_else(|| GgufProblem::UnknownValueType { key: key.clone(), number })?;
        let value = read_value(cursor, file, ty, &key, 0)?;
        if metadata.contains_key(&key) {
            return Err(GgufProblem::DuplicateKey(key));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_value(cursor: &mut Cursor<'_>, file: &SharedBytes, ty: ValueType, key: &str, depth: usize) -> Result<Value, GgufProblem> {
    let what = || format!("metadata key {key:?}");
    Ok(match ty {
        ValueType::U8 => Value::U8(cursor.array::<1>(what)?[0]),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        // The specification has 0 and 1; whatever else is written there is meant as true.
        ValueType::Bool => Value::Bool(cursor.array::<1>(what)?[0] != 0),
        ValueType::String => {
            let bytes = cursor.string_bytes(what)?;
            match std::str::from_utf8(bytes) {
                Ok(text) => Value::String(text.to_owned()),
                Err(_) => Value::StringNotUtf8(bytes.to_owned()),
            }
        }
        ValueType::Array => Value::Array(read_array(cursor, file, key, depth)?),
    })
}

fn read_array(cursor: &mut Cursor<'_>, file: &SharedBytes, key: &str, depth: usize) -> Result<Array, GgufProblem> {
    if depth >= NESTING_MAX {
        return Err(GgufProblem::NestedTooDeeply(key.to_owned()));
    }
    let what = || format!("metadata key {key:?}");
    let number = cursor.u32(what)?;
    let element = ValueType::from_number(number).ok_or_else(|| GgufProblem::UnknownValueType { key: key.to_owned(), number })?;
    let count = cursor.u64(what)?;
    let len = cursor.check_count(count, element.bytes_min(), what)?;
    let start = cursor.position();
    let mut starts = Vec::new();
    match element {
        ValueType::String => {
            starts.reserve_exact(len);
            for _ in 0..len {
                starts.push((cursor.position() - start) as u64);
                cursor.string_bytes(what)?;
            }
        }
        ValueType::Array => {
            starts.reserve_exact(len);
            for _ in 0..len {
                starts.push((cursor.position() - start) as u64);
                read_array(cursor, file, key, depth + 1)?;
            }
        }
        number => {
            cursor.take(len as u64 * number.bytes_min(), what)?;
        }
    }
    let bytes = file.slice(start, cursor.position() - start).expect("the cursor stays inside the file");
    Ok(Array { element, len, bytes, starts })
}
