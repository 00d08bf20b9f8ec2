//! The architectures this build knows, one file each.

pub mod llama;
pub mod qwen2;
pub mod qwen3;

use candle_core::Device;

use crate::gguf::Gguf;
use crate::layers::decoder::{Decoder, DecoderLayout};
use crate::model::ModelError;

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
}

impl Family {
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// The family of a file; an unknown architecture is an error by name.
    pub fn of(gguf: &Gguf) -> Result<Self, ModelError> {
        let name: &str = gguf.require("general.architecture")?;
        let found = Self::ALL.into_iter().find(|family| family.architecture() == name);
        found.ok_or_else(|| ModelError::UnknownArchitecture { file: gguf.name().to_owned(), name: name.to_owned() })
    }

    /// The name in `general.architecture`, which is also the prefix of its metadata keys.
    pub fn architecture(self) -> &'static str {
        self.layout().architecture
    }

    pub(crate) fn load(self, gguf: &Gguf, device: &Device) -> Result<Decoder, ModelError> {
        Decoder::load(gguf, device, self.layout())
    }

    fn layout(self) -> DecoderLayout {
        match self {
            Self::Llama => llama::LAYOUT,
            Self::Qwen2 => qwen2::LAYOUT,
            Self::Qwen3 => qwen3::LAYOUT,
        }
    }
}

/// All architectures, for messages: `llama, qwen2, qwen3`.
pub fn known() -> String {
    Family::ALL.map(Family::architecture).join(", ")
}
