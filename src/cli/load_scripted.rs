//! From a script to a running engine: what [`super::load`] does for a model, where there are no weights.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use candle_core::Device;
use kernels::BLOCK_TOKENS;
use models::{Gguf, Tokenizer};

use super::embedding::{self, ChatEmbedder};
use super::failure::Failure;
use super::load::{About, Loaded, TOKENS_PER_STEP_MAX, WeightPages};
use super::memory_plan::{self, Budget, Needs, Wanted};
use crate::chat::SamplingDefaults;
use crate::chat::prepare::TextModel;
use crate::config::Config;
use crate::engine::scheduler::SCORED_ROWS_MAX;
use crate::engine::{Engine, EngineConfig};
use crate::hub::builtin;
use crate::scripted::runner::{SLOT_BYTES, ScriptedRunner};
use crate::scripted::script::Script;
use crate::scripted::template;

/// Tokens of one conversation: more than any client's prompt, so that it is the client that is tested.
const CONTEXT_MAX: usize = 1 << 18;

/// Reads the script at `path` and starts the engine.
pub fn load(config: &Config, path: &Path, id: String) -> Result<Loaded, Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
    let script = Script::parse(&name, &text).map_err(|error| Failure::Usage(error.to_string()))?;
    let gguf = Gguf::from_bytes(builtin::bytes(), "the built-in model").context("the built-in tokenizer")?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).context("the built-in tokenizer")?);
    let template = template(&tokenizer).context("the built-in template")?;
    let parallel = config.engine.parallel.get();
    let logit_rows = parallel + config.engine.drafts.max(SCORED_ROWS_MAX);
    let own_embedding = embedding::open(config, &Device::Cpu)?;
    let needs = Needs {
        weight_bytes: 0,
        block_bytes: (BLOCK_TOKENS * SLOT_BYTES) as u64,
        state_bytes_per_sequence: 0,
        scratch_bytes: (logit_rows * tokenizer.vocab_size() * size_of::<f32>()) as u64
            + embedding::memory_bytes(own_embedding.as_ref(), &gguf)?,
        context_max: CONTEXT_MAX,
        draft: None,
    };
    let wanted = Wanted {
        context: config.engine.context,
        context_origin: config.source("context").clone(),
        parallel,
        budget: Budget { memory: config.engine.memory, origin: config.source("memory").clone() },
        draft_origin: config.source("draft_model").clone(),
    };
    if config.models.draft_model.is_some() {
        return Err(Failure::Usage(format!("{}: a script has no use for a draft model", config.source("draft_model"))));
    }
    let plan = memory_plan::plan(needs, wanted).with_context(|| name.clone())?;
    let engine_config = EngineConfig {
        blocks: plan.blocks,
        sequences_max: parallel,
        tokens_per_step_max: TOKENS_PER_STEP_MAX,
        queue_max: config.engine.queue,
        context_max: plan.context,
        // A guess that comes true would beat the script's pace.
        drafts_max: if script.is_paced() { 0 } else { config.engine.drafts },
        first_token_max: config.engine.max_wait,
    };
    let runner = ScriptedRunner::new(script, tokenizer.clone(), plan.blocks).context("the built-in tokenizer has no marks of turns")?;
    let about = About {
        id,
        architecture: "scripted".to_owned(),
        parameters: 0,
        weight_type: "no weights".to_owned(),
        file_bytes: text.len() as u64,
        context_max: CONTEXT_MAX,
        device: "none; it reads its replies from a file".to_owned(),
        is_cpu: true,
        weights: WeightPages::Mapped,
        threads: config.engine.threads.get(),
    };
    let engine = Engine::start(Box::new(runner), engine_config);
    // A script says nothing of vectors: where no model is named for them, they are the built-in one's.
    let built_in = models::load(&gguf, &Device::Cpu).context("the built-in model")?;
    let chat_embedder = ChatEmbedder::of(&*built_in);
    let embeddings = embedding::start(own_embedding, chat_embedder, (&about.id, &tokenizer), engine.clone());
    let text = Arc::new(TextModel::new(tokenizer, template, SamplingDefaults::default()));
    Ok(Loaded { engine, text, embeddings, about, plan, draft: None, disk: None })
}
