//! The draft model (`--draft-model`): found, held against the model's vocabulary, counted, loaded.

use anyhow::Context as _;
use candle_core::Device;
use kernels::{BLOCK_TOKENS, KvDtype};
use models::{Family, Gguf, KvCache, MemoryEstimate, ModelConfig, StepSize, Tokenizer};

use super::failure::Failure;
use super::load::{self, TOKENS_PER_STEP_MAX};
use super::memory_plan::{DraftNeeds, DraftPlan, Size};
use crate::config::Config;
use crate::engine::draft_model::DraftModel;
use crate::engine::draft_plan::DraftLimits;
use crate::engine::model_runner::LoadedRunner;
use crate::hub::{HubOptions, ModelFile, ModelSource, builtin, progress};

/// A file whose header was read.
pub struct DraftFile {
    gguf: Gguf,
    id: String,
    kv_type: KvDtype,
    hyperparameters: ModelConfig,
}

/// `None`: none was asked for.
pub fn open(config: &Config) -> Result<Option<DraftFile>, Failure> {
    let Some(name) = &config.models.draft_model else { return Ok(None) };
    let told = || config.source("draft_model").to_string();
    let source = ModelSource::parse(name).with_context(told)?;
    let options = HubOptions::from_env(&|name| std::env::var(name).ok(), config.models.offline);
    let gguf = match source.locate(&options, progress::for_stderr().as_mut()).with_context(told)? {
        ModelFile::BuiltIn => Gguf::from_bytes(builtin::bytes(), "the built-in model"),
        ModelFile::Path(path) => Gguf::open(&path),
        ModelFile::Script(_) => return Err(Failure::Usage(format!("{}: a script guesses nothing", told()))),
    };
    let gguf = gguf.with_context(told)?;
    let family = Family::of(&gguf).with_context(told)?;
    let hyperparameters = family.hyperparameters(&gguf).with_context(|| gguf.name().to_owned()).with_context(told)?.model;
    // As the model's, where its heads allow it.
    let kv_type = match config.engine.kv_type {
        wanted if hyperparameters.head_dim.is_multiple_of(wanted.head_dim_multiple()) => wanted,
        _ => KvDtype::F16,
    };
    Ok(Some(DraftFile { gguf, id: load::name_of(&source, name), kv_type, hyperparameters }))
}

impl DraftFile {
    pub fn needs(&self, config: &Config) -> anyhow::Result<DraftNeeds> {
        // Each sequence that is guessed for has a row of logits, and there are no more of them than drafts.
        let step = StepSize { tokens: TOKENS_PER_STEP_MAX, logit_rows: config.engine.drafts };
        let estimate = MemoryEstimate::of(&self.gguf, self.kv_type, step).with_context(|| config.source("draft_model").to_string())?;
        Ok(DraftNeeds {
            weight_bytes: estimate.weight_bytes,
            block_bytes: estimate.kv_bytes_per_token * BLOCK_TOKENS as u64,
            scratch_bytes: estimate.scratch_bytes,
            context_max: self.hyperparameters.context_max,
        })
    }

    /// Refuses one that means something else by a token than the model `name` does.
    pub fn check_vocabulary(&self, name: &str, tokenizer: &Tokenizer, config: &Config) -> anyhow::Result<()> {
        let told = || config.source("draft_model").to_string();
        let own = Tokenizer::from_gguf(&self.gguf).with_context(told)?;
        match tokenizer.difference(&own) {
            None => load::refuse_tokens_without_rows(self.gguf.name(), own.vocab_size(), self.hyperparameters.vocab).with_context(told),
            Some(difference) => {
                let draft = self.gguf.name();
                anyhow::bail!("{}: {draft} cannot guess for {name}, their vocabularies are not the same: {difference}", told())
            }
        }
    }

    pub fn load(self, plan: &DraftPlan, device: &Device, config: &Config) -> anyhow::Result<DraftModel> {
        let told = || config.source("draft_model").to_string();
        let model = models::load(&self.gguf, device).with_context(told)?;
        let kv = KvCache::new(model.config(), plan.blocks, self.kv_type, device).with_context(told)?;
        let context_max = self.hyperparameters.context_max;
        let limits = DraftLimits { blocks: plan.blocks, context_max, tokens_per_step_max: TOKENS_PER_STEP_MAX };
        tracing::debug!(blocks = plan.blocks, "{} guesses", self.id);
        Ok(DraftModel::new(Box::new(LoadedRunner::new(model, kv)), limits))
    }

    /// `qwen2.5-0.5b-instruct-q8_0, 506 MiB`.
    pub fn line(&self) -> String {
        format!("{}, {}", self.id, Size(self.gguf.file_bytes()))
    }
}
