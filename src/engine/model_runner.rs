//! Runs a step on a loaded model: the one place where the engine meets tensors.
//!
//! Decides nothing. Errors become messages here; a panic is caught by the engine loop, which does the same for every runner.

use kernels::Step;
use models::kv_cache::KvCache;
use models::{Logits, Model};

use super::ModelRunner;

/// A model and the pages it writes.
pub struct LoadedRunner {
    model: Box<dyn Model>,
    kv: KvCache,
}

impl LoadedRunner {
    /// `kv` holds as many blocks as the [`super::EngineConfig`] says.
    pub fn new(model: Box<dyn Model>, kv: KvCache) -> Self {
        Self { model, kv }
    }
}

impl ModelRunner for LoadedRunner {
    fn vocab(&self) -> usize {
        self.model.config().vocab
    }

    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        self.model.forward(token_ids, step, &mut self.kv).map_err(|error| error.to_string())
    }
}
