//! Runs a step on a loaded model: the one place where the engine meets tensors.
//!
//! Decides nothing. Errors become messages here, fit for a client to read; a panic is caught by the engine loop, which does the same for
//! every runner.

use kernels::Step;
use models::kv_cache::KvCache;
use models::{Logits, Model, ModelError};

use super::ModelRunner;
use super::layer_groups::{StatePools, WindowPool};
use super::prefix_cache::BlockId;

/// A model and the pages it writes.
pub struct LoadedRunner {
    model: Box<dyn Model>,
    kv: KvCache,
    pools: StatePools,
}

impl LoadedRunner {
    /// `kv` holds as many blocks as the [`super::EngineConfig`] says.
    pub fn new(model: Box<dyn Model>, kv: KvCache) -> Self {
        Self { model, kv, pools: StatePools::default() }
    }

    /// All layers have one window, and `kv` holds the blocks of a pool for it: fewer than the [`super::EngineConfig`] says. Without this they are
    /// given pages for all tokens.
    pub fn of_window(model: Box<dyn Model>, kv: KvCache, window: usize) -> Self {
        let windows = vec![WindowPool { window, blocks: kv.blocks }];
        Self { model, kv, pools: StatePools { windows, state_slots: None } }
    }
}

impl ModelRunner for LoadedRunner {
    fn vocab(&self) -> usize {
        self.model.config().vocab
    }

    fn state_pools(&self) -> StatePools {
        self.pools.clone()
    }

    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        self.model.forward(token_ids, step, &mut self.kv).map_err(|error| message_of(&error))
    }

    fn block_bytes(&self) -> Option<usize> {
        self.kv.copied_block_bytes()
    }

    fn read_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), String> {
        self.kv.read_block(block.0, out).map_err(|error| message_of(&error.into()))
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), String> {
        self.kv.write_block(block.0, bytes).map_err(|error| message_of(&error.into()))
    }
}

/// The first line of an error; what follows goes to the log. Under RUST_BACKTRACE=1 Candle puts a backtrace there, and the paths and names
/// of this machine are nothing for a client.
fn message_of(error: &ModelError) -> String {
    let whole = error.to_string();
    let Some((message, rest)) = whole.split_once('\n') else { return whole };
    tracing::error!("{message}; what the client is not told:\n{rest}");
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;

    use candle_core::Error;

    use super::*;

    #[test]
    fn a_backtrace_is_not_for_the_client() {
        let plain = Error::Msg("the device is gone".to_owned());
        let traced = Error::WithBacktrace { inner: Box::new(plain), backtrace: Box::new(Backtrace::force_capture()) };
        assert!(traced.to_string().contains('\n'));
        assert_eq!(message_of(&ModelError::from(traced)), "the device is gone");
        assert_eq!(message_of(&ModelError::from(Error::Msg("one line".to_owned()))), "one line");
    }
}
