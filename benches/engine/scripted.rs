//! Models that say what a script says, at the cost of a real one's forward pass, and constraints that allow all.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use kernels::Step;
use models::Logits;
use understudy::engine::ModelRunner;
use understudy::engine::constraint::{Constraint, Ending, Matcher};
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::prefix_cache::BlockId;
use understudy::engine::token_mask::TokenMask;

/// A constraint that allows everything, and says so or fills a mask with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trivial {
    Says,
    Fills,
}

impl Constraint for Trivial {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        Ok(Box::new(*self))
    }
}

impl Matcher for Trivial {
    fn allow(&mut self, _output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
        match self {
            Self::Says => Ok(Ending::Anything),
            Self::Fills => {
                allowed.words_mut().fill(u64::MAX);
                Ok(Ending::Possible)
            }
        }
    }
}

/// The text that a sequence is to become, prompt and answer; empty: what the model says.
pub type Script = Arc<Mutex<Vec<u32>>>;

/// Rows and seconds of each step that was computed.
pub type Steps = Arc<Mutex<Vec<(usize, f64)>>>;

/// The model, whose choice a script may overrule.
pub struct Scripted {
    pub model: LoadedRunner,
    pub script: Script,
    pub steps: Steps,
}

impl ModelRunner for Scripted {
    fn vocab(&self) -> usize {
        self.model.vocab()
    }

    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        let start = Instant::now();
        let mut logits = self.model.run(token_ids, step)?;
        self.steps.lock().map_err(|_| "the bench has panicked")?.push((token_ids.len(), start.elapsed().as_secs_f64()));
        let script = self.script.lock().map_err(|_| "the bench has panicked")?;
        for (index, row) in step.logit_rows.iter().enumerate() {
            let next = step.positions[*row as usize] as usize + 1;
            if let Some(&token) = script.get(next) {
                let vocab = logits.vocab;
                logits.values[index * vocab + token as usize] = 1e4;
            }
        }
        Ok(logits)
    }

    fn block_bytes(&self) -> Option<usize> {
        self.model.block_bytes()
    }
    fn read_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), String> {
        self.model.read_block(block, out)
    }
    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), String> {
        self.model.write_block(block, bytes)
    }
}

/// A draft model that is right about the script as often as it is told to be, at the cost of its own forward pass.
pub struct ScriptedDraft {
    pub model: LoadedRunner,
    pub script: Script,
    pub right: f64,
}

impl ModelRunner for ScriptedDraft {
    fn vocab(&self) -> usize {
        self.model.vocab()
    }

    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        let mut logits = self.model.run(token_ids, step)?;
        let script = self.script.lock().map_err(|_| "the bench has panicked")?;
        for (index, row) in step.logit_rows.iter().enumerate() {
            let next = step.positions[*row as usize] as usize + 1;
            let Some(&token) = script.get(next) else { continue };
            let hash = (next as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            let is_right = (hash as f64) < self.right * (1u64 << 24) as f64;
            let vocab = logits.vocab;
            let says = if is_right { token as usize } else { (token as usize + 1) % vocab };
            logits.values[index * vocab + says] = 1e4;
        }
        Ok(logits)
    }
}
