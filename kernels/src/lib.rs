//! Numeric ops of Understudy: what a transformer needs, over a ragged batch and a paged cache.
//!
//! Knows blocks of weights, rows of activations and pages of keys and values; knows no model, no token text, no request.
//! Every op has one order of accumulation, whatever the number of rows: the same row gives the same bits alone or in company.

pub mod blocks;
pub mod device;
pub mod ggml_type;
pub mod huge;
pub mod kv;
pub mod ops;
pub mod profile;
pub mod quantize;
pub mod step;
pub mod weight;

pub mod cpu;
pub mod reference;

/// Raised by every change of kernels or models that changes a bit of the keys and values of any model: blocks kept on a disk are used
/// again only by the arithmetic that made them. `models/tests/arithmetic.rs` fails until it is.
pub const ARITHMETIC_VERSION: u32 = 1;

pub use device::{DeviceChoice, DeviceError, OpenDevice};
pub use ggml_type::GgmlType;
pub use kv::{KvDtype, KvLayer, UnknownKvDtype};
pub use step::{BLOCK_TOKENS, LogitRows, Span, StateSlots, Step, StepBuildError, StepBuilder, StepError, WindowPages};
pub use weight::{SharedBytes, Weight, WeightError};
