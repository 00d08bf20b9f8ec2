//! The architectures this build knows, one file each.

pub mod llama;
pub mod qwen2;
pub mod qwen3;
pub mod qwen3moe;

use candle_core::Device;

use crate::config::{ConfigError, Hyperparameters};
use crate::gguf::Gguf;
use crate::layers::decoder::{Decoder, DecoderLayout};
use crate::model::ModelError;

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
}

impl Family {
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe];

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

    /// What the metadata of a file of this family says. Errors: keys that are missing, absurd, or ask for what the family does not do.
    pub fn hyperparameters(self, gguf: &Gguf) -> Result<Hyperparameters, ConfigError> {
        let layout = self.layout();
        Hyperparameters::read(gguf, layout.architecture, layout.feed_forward)
    }

    pub(crate) fn load(self, gguf: &Gguf, device: &Device) -> Result<Decoder, ModelError> {
        Decoder::load(gguf, device, self.layout())
    }

    fn layout(self) -> DecoderLayout {
        match self {
            Self::Llama => llama::LAYOUT,
            Self::Qwen2 => qwen2::LAYOUT,
            Self::Qwen3 => qwen3::LAYOUT,
            Self::Qwen3Moe => qwen3moe::LAYOUT,
        }
    }
}

/// All architectures, for messages: `llama, qwen2, qwen3, qwen3moe`.
pub fn known() -> String {
    Family::ALL.map(Family::architecture).join(", ")
}
