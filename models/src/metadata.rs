//! The keys of one architecture, typed and bounded: what is absent, of the wrong kind or absurd becomes an error that names the key.
//!
//! Knows how a number is written in metadata, not what it means.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::config::ConfigError;
use crate::gguf::{Gguf, Value};

/// Keys under the prefix `architecture`.
pub struct Metadata<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    pub fn new(gguf: &'a Gguf, architecture: &'a str) -> Self {
        Self { gguf, architecture }
    }

    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// A whole number within `range`.
    pub fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let value = self.value(key).ok_or_else(|| ConfigError::Missing(self.full(key)))?;
        let count = value.as_u64().ok_or_else(|| self.bad_kind(key, "a whole number", value))?;
        self.within(key, count, range)
    }

    /// A whole number within `range` that may be given once or for each of `layers` layers; then all must agree.
    pub fn count_of_layers(&self, key: &str, layers: usize, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let Some(Value::Array(array)) = self.value(key) else { return self.count(key, range) };
        let wanted = "a whole number, or one for each layer";
        let counts: Option<Vec<u64>> = (0..array.len()).map(|index| array.get(index)?.as_u64()).collect();
        let counts = counts.ok_or_else(|| self.bad_kind(key, wanted, &Value::Array(array.clone())))?;
        let (Some(&first), true) = (counts.first(), counts.len() == layers) else {
            return Err(self.bad_value(key, format!("an array of {}", counts.len()), format!("the model has {layers} layers")));
        };
        match counts.iter().find(|other| **other != first) {
            Some(&other) => Err(ConfigError::DiffersPerLayer { key: self.full(key), first, other }),
            None => self.within(key, first, range),
        }
    }

    /// Any number.
    pub fn number(&self, key: &str) -> Result<f64, ConfigError> {
        self.optional_number(key)?.ok_or_else(|| ConfigError::Missing(self.full(key)))
    }

    /// Any number; `None` where the key is absent.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.bad_kind(key, "a number", value))
    }

    /// A truth value; `None` where the key is absent.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.bad_kind(key, "true or false", other)),
        }
    }

    /// A string; `None` where the key is absent.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.bad_kind(key, "a string", other)),
        }
    }

    pub fn bad_value(&self, key: &str, value: impl Display, problem: String) -> ConfigError {
        ConfigError::Value { key: self.full(key), value: value.to_string(), problem }
    }

    pub fn unsupported(&self, key: &str, value: impl Display, what: &'static str) -> ConfigError {
        ConfigError::Unsupported { key: self.full(key), value: value.to_string(), architecture: self.architecture.to_owned(), what }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.gguf.value(&self.full(key))
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn within(&self, key: &str, count: u64, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        usize::try_from(count)
            .ok()
            .filter(|count| range.contains(count))
            .ok_or_else(|| self.bad_value(key, count, format!("it must lie between {} and {}", range.start(), range.end())))
    }

    fn bad_kind(&self, key: &str, wanted: &'static str, value: &Value) -> ConfigError {
        ConfigError::Kind { key: self.full(key), wanted, got: value.describe() }
    }
}
