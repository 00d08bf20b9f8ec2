//! From a configuration to a running engine: name, file, budget, weights, tokenizer, cache, thread. The one place where the parts meet.
//!
//! Must not know HTTP: `serve`, `chat` and `bench` all start here.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kernels::{BLOCK_TOKENS, KvDtype};
use models::gguf::WeightCopy;
use models::state::window_blocks_per_sequence;
use models::{Family, Gguf, KvCache, LayerGroup, LayerState, MemoryEstimate, StepSize, Tokenizer};

use super::disk_cache;
use super::draft_model::{self, DraftFile};
use super::embedding::{self, ChatEmbedder, OwnModel};
use super::failure::Failure;
use super::load_scripted;
use super::memory_plan::{self, Budget, Needs, Plan, Size, Wanted};
use crate::chat::chat_template::ChatTemplate;
use crate::chat::prepare::TextModel;
use crate::chat::{SamplingDefaults, SamplingOptions};
use crate::config::{Config, PARALLEL_MAX, Weights};
use crate::embedding::Embeddings;
use crate::engine::kv_store::{BlockStore, StoreHandle};
use crate::engine::model_runner::LoadedRunner;
use crate::engine::scheduler::SCORED_ROWS_MAX;
use crate::engine::{Engine, EngineConfig};
use crate::hub::{HubOptions, ModelFile, ModelSource, builtin, progress};

/// Rows of one step: enough to keep the matrix kernels busy, short enough that a running stream waits little for a new prompt.
pub(super) const TOKENS_PER_STEP_MAX: usize = 512;
const _: () = assert!(PARALLEL_MAX <= TOKENS_PER_STEP_MAX, "the engine would cut --parallel in silence");

/// How long a start waits for word of what is on the disk: enough for a look at the folder, not for reading a model that is new.
const DISK_READY_LIMIT: Duration = Duration::from_millis(250);

/// A model that answers.
#[derive(Debug)]
pub struct Loaded {
    pub engine: Engine,
    pub text: Arc<TextModel>,
    /// `None`: the model gives none.
    pub embeddings: Option<Embeddings>,
    pub about: About,
    pub plan: Plan,
    /// What guesses ahead, for people; `None`: no model does.
    pub draft: Option<String>,
    /// What of the cache outlives the process; `None`: nothing.
    pub disk: Option<StoreHandle>,
}

/// What people want to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The name replies carry: as typed for a repository, else as the file calls itself.
    pub id: String,
    pub architecture: String,
    pub parameters: u64,
    /// The type most weights have, as in `Q4_K`.
    pub weight_type: String,
    pub file_bytes: u64,
    /// The context the model declares.
    pub context_max: usize,
    pub device: String,
    pub is_cpu: bool,
    pub weights: WeightPages,
    pub threads: usize,
}

/// Where the weights ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightPages {
    Mapped,
    Copied { bytes: u64, huge_bytes: u64 },
}

impl std::fmt::Display for WeightPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Mapped => f.write_str("mapped"),
            Self::Copied { bytes, huge_bytes } => {
                write!(f, "copied, {:.0} % on huge pages", 100.0 * huge_bytes.min(bytes) as f64 / bytes.max(1) as f64)
            }
        }
    }
}

/// Loads the model and starts the engine. Blocking, and long for a model that has to be fetched.
pub fn load(config: &Config) -> Result<Loaded, Failure> {
    // A variable that asks for what this machine lacks would otherwise fail every step of a server that looks well.
    kernels::cpu::isa::isa().map_err(|error| Failure::Usage(error.to_string()))?;
    let source = model_source(config)?;
    let options = HubOptions::from_env(&|name| std::env::var(name).ok(), config.models.offline);
    let gguf = match source.locate(&options, progress::for_stderr().as_mut())? {
        ModelFile::BuiltIn => Gguf::from_bytes(builtin::bytes(), "the built-in model"),
        ModelFile::Path(path) => Gguf::open(&path),
        ModelFile::Script(path) => return load_scripted::load(config, &path, id(&source, config)),
    };
    let mut gguf = gguf.context("this file cannot be served")?;
    let parts = match &source {
        ModelSource::BuiltIn => vec![(builtin::bytes(), None)],
        _ => gguf.files(),
    };
    kernels::cpu::pool::set_threads(config.engine.threads);
    if config.engine.pin {
        kernels::cpu::pool::set_pinned();
    }
    let opened = kernels::device::open(config.engine.device).with_context(|| config.source("device").to_string())?;
    for error in &opened.passed_over {
        tracing::warn!("{error}");
    }
    let own_embedding = embedding::open(config, &opened.device)?;
    let draft = draft_model::open(config)?;
    let plan = plan(&gguf, own_embedding.as_ref(), draft.as_ref(), config)?;
    if config.engine.kv_type == KvDtype::Q8_0 && !opened.device.is_cpu() {
        return Err(Failure::Usage(format!("{}: q8_0 is for the CPU; this device takes f16 or f32", config.source("kv_type"))));
    }
    // First of what takes time: what the disk has should be known when the first request comes.
    let block_bytes = (plan.cache_bytes / plan.blocks as u64) as usize;
    let store = match opened.device.is_cpu() && plan.state_sequences == 0 {
        true => disk_cache::start(config, parts, block_bytes),
        false => None,
    };
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).context("tokenizer")?);
    if let Some(draft) = &draft {
        draft.check_vocabulary(gguf.name(), &tokenizer, config)?;
    }
    let weights = place_weights(&mut gguf, config, &opened.device)?;
    let template = ChatTemplate::of(&tokenizer).context(gguf.name().to_owned())?;
    let text = TextModel::new(tokenizer, template, sampling_defaults(&gguf)?).finding_landmarks(plan.state_sequences > 0);
    let model = models::load(&gguf, &opened.device).context("this model cannot be run")?;
    refuse_tokens_without_rows(gguf.name(), text.tokenizer.vocab_size(), model.config().vocab)?;
    if text.template.is_fallback() {
        tracing::warn!("the model brings no chat template; ChatML is used");
    }
    if !text.template.knows_tools() {
        tracing::warn!("the model's chat template shows no tools; those of a request will not reach it");
    }
    let window = window(model.layer_groups());
    let kv_blocks = window.map_or(plan.blocks, |window| plan.state_sequences * window_blocks_per_sequence(window, TOKENS_PER_STEP_MAX));
    let kv = KvCache::new(model.config(), kv_blocks, config.engine.kv_type, &opened.device).context("the cache cannot be had")?;
    let about = about(&gguf, id(&source, config), model.config(), config, &opened.device, weights);
    let engine_config = EngineConfig {
        blocks: plan.blocks,
        sequences_max: config.engine.parallel.get(),
        tokens_per_step_max: TOKENS_PER_STEP_MAX,
        queue_max: config.engine.queue,
        context_max: plan.context,
        drafts_max: config.engine.drafts,
        first_token_max: config.engine.max_wait,
    };
    // The plan counted from the header, the cache knows: they are one sum, and blocks of any other length are nobody's.
    let as_planned = |bytes| if window.is_none() { bytes == block_bytes } else { (bytes * kv_blocks) as u64 == plan.state_bytes };
    assert!(kv.copied_block_bytes().is_none_or(as_planned), "blocks are not as long as the plan says");
    let draft_line = draft.as_ref().map(DraftFile::line);
    let draft = draft.zip(plan.draft.as_ref()).map(|(draft, plan)| draft.load(plan, &opened.device, config)).transpose()?;
    let chat_embedder = ChatEmbedder::of(&*model);
    let runner = Box::new(match window {
        None => LoadedRunner::new(model, kv),
        Some(window) => LoadedRunner::of_window(model, kv, window),
    });
    let (store, disk) = store.map(|(store, handle)| (Box::new(store) as Box<dyn BlockStore>, handle)).unzip();
    if let Some(handle) = &disk {
        handle.wait_ready(DISK_READY_LIMIT);
    }
    let engine = Engine::start_with(runner, engine_config, store, draft);
    let embeddings = embedding::start(own_embedding, chat_embedder, (&about.id, &text.tokenizer), engine.clone());
    Ok(Loaded { engine, text: Arc::new(text), embeddings, about, plan, draft: draft_line, disk })
}

/// The window that all layers have.
fn window(groups: &[LayerGroup]) -> Option<usize> {
    match groups {
        [LayerGroup { state: LayerState::Sliding { window }, .. }] => Some(*window),
        _ => None,
    }
}

/// Leaves the weights where they lie, or copies them: how it went is said here, and in [`About::weights`].
fn place_weights(gguf: &mut Gguf, config: &Config, device: &candle_core::Device) -> Result<WeightPages, Failure> {
    if config.engine.weights == Weights::Map {
        return Ok(WeightPages::Mapped);
    }
    if !device.is_cpu() {
        tracing::warn!("{}: weights on huge pages are for the CPU; they stay mapped", config.source("weights"));
        return Ok(WeightPages::Mapped);
    }
    let available = super::machine::machine().memory_available_bytes;
    memory_plan::copy_fits(gguf.tensor_bytes(), available, config.source("weights")).with_context(|| gguf.name().to_owned())?;
    let WeightCopy { bytes, huge_bytes } = gguf.copy_weights().with_context(|| config.source("weights").to_string())?;
    if huge_bytes < bytes / 2 {
        let (huge, all) = (Size(huge_bytes), Size(bytes));
        tracing::warn!(
            "the system gave {huge} of huge pages for {all} of weights; the rest lies on ordinary ones (see /sys/kernel/mm/transparent_hugepage)"
        );
    }
    Ok(WeightPages::Copied { bytes, huge_bytes })
}

/// What the model's name means.
pub fn model_source(config: &Config) -> Result<ModelSource, Failure> {
    Ok(ModelSource::parse(&config.models.model).with_context(|| config.source("model").to_string())?)
}

/// The name replies will carry.
fn id(source: &ModelSource, config: &Config) -> String {
    name_of(source, &config.models.model)
}

/// Of a model that was typed so.
pub(super) fn name_of(source: &ModelSource, typed: &str) -> String {
    match source {
        ModelSource::BuiltIn => builtin::NAME.to_owned(),
        ModelSource::Path(path) | ModelSource::Script(path) => file_stem(path),
        ModelSource::Repo { .. } => typed.to_owned(),
    }
}

pub fn file_stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The budget is checked on the header alone, before a weight is touched.
fn plan(gguf: &Gguf, own_embedding: Option<&OwnModel>, draft: Option<&DraftFile>, config: &Config) -> Result<Plan, Failure> {
    let parallel = config.engine.parallel.get();
    let step = StepSize { tokens: TOKENS_PER_STEP_MAX, logit_rows: parallel + config.engine.drafts.max(SCORED_ROWS_MAX) };
    let estimate = MemoryEstimate::of(gguf, config.engine.kv_type, step).context("this model cannot be run")?;
    let family = Family::of(gguf).context("this model cannot be run")?;
    let hyperparameters = family.hyperparameters(gguf).with_context(|| gguf.name().to_owned())?;
    let (kv_type, head_dim) = (config.engine.kv_type, hyperparameters.model.head_dim);
    if !head_dim.is_multiple_of(kv_type.head_dim_multiple()) {
        let (source, multiple) = (config.source("kv_type"), kv_type.head_dim_multiple());
        let problem = format!("{kv_type} needs heads of a multiple of {multiple} elements; {} has {head_dim}", gguf.name());
        return Err(Failure::Usage(format!("{source}: {problem}")));
    }
    let block_bytes = estimate.kv_bytes_per_token * BLOCK_TOKENS as u64;
    let needs = Needs {
        weight_bytes: estimate.weight_bytes,
        block_bytes,
        state_bytes_per_sequence: estimate.state_bytes_per_sequence,
        scratch_bytes: estimate.scratch_bytes
            + disk_cache::memory_bytes(config, block_bytes)
            + embedding::memory_bytes(own_embedding, gguf)?,
        context_max: hyperparameters.model.context_max,
        draft: draft.map(|draft| draft.needs(config)).transpose()?,
    };
    let wanted = Wanted {
        context: config.engine.context,
        context_origin: config.source("context").clone(),
        parallel,
        budget: Budget { memory: config.engine.memory, origin: config.source("memory").clone() },
        draft_origin: config.source("draft_model").clone(),
    };
    Ok(memory_plan::plan(needs, wanted).with_context(|| gguf.name().to_owned())?)
}

/// Rows beyond the tokens are padding, as many files have it; a token beyond the rows would fail the request it turns up in.
pub(super) fn refuse_tokens_without_rows(file: &str, tokens: usize, rows: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        tokens <= rows,
        "{file}: the tokenizer has {tokens} tokens and the embedding {rows} rows: tokenizer and weights are of different models"
    );
    Ok(())
}

/// What the file recommends under llama.cpp's keys; a penalty or a filter that is off is no recommendation.
fn sampling_defaults(gguf: &Gguf) -> anyhow::Result<SamplingDefaults> {
    let top_k = gguf.get::<i64>("general.sampling.top_k")?;
    Ok(SamplingDefaults {
        temperature: recommended(gguf, "temp", SamplingOptions::TEMPERATURE)?,
        top_k: top_k.and_then(|k| usize::try_from(k).ok()).filter(|k| *k > 0),
        top_p: recommended(gguf, "top_p", SamplingOptions::TOP_P)?,
        min_p: recommended(gguf, "min_p", SamplingOptions::MIN_P)?,
        repetition_penalty: recommended(gguf, "penalty_repeat", SamplingOptions::REPETITION_PENALTY)?,
    })
}

/// Every request that leaves it open would sample with it, so it must be what a request may ask for.
fn recommended(gguf: &Gguf, key: &str, bounds: RangeInclusive<f64>) -> anyhow::Result<Option<f32>> {
    let key = format!("general.sampling.{key}");
    let Some(number) = gguf.get::<f32>(&key)? else { return Ok(None) };
    // In the file's own precision, in which 0.01 is a little less than 0.01.
    if !(*bounds.start() as f32..=*bounds.end() as f32).contains(&number) {
        let (file, least, most) = (gguf.name(), bounds.start(), bounds.end());
        anyhow::bail!("{file}: metadata key {key:?} is {number}: must be a number from {least} to {most}");
    }
    Ok(Some(number))
}

fn about(
    gguf: &Gguf,
    id: String,
    model: &models::ModelConfig,
    config: &Config,
    device: &candle_core::Device,
    weights: WeightPages,
) -> About {
    let parameters = gguf.tensors().iter().map(|tensor| tensor.elements() as u64).sum();
    let mut by_type: Vec<(String, usize)> = Vec::new();
    for tensor in gguf.tensors() {
        let name = tensor.ty.to_string();
        match by_type.iter_mut().find(|(other, _)| *other == name) {
            Some((_, elements)) => *elements += tensor.elements(),
            None => by_type.push((name, tensor.elements())),
        }
    }
    let weight_type = by_type.into_iter().max_by_key(|(_, elements)| *elements).map_or_else(String::new, |(name, _)| name);
    let is_cpu = device.is_cpu();
    let device = match device {
        candle_core::Device::Cpu => format!("CPU, {} threads", config.engine.threads),
        candle_core::Device::Cuda(_) => "CUDA".to_owned(),
        candle_core::Device::Metal(_) => "Metal".to_owned(),
    };
    About {
        id,
        architecture: model.architecture.clone(),
        parameters,
        weight_type,
        file_bytes: gguf.file_bytes(),
        context_max: model.context_max,
        device,
        is_cpu,
        weights,
        threads: config.engine.threads.get(),
    }
}

impl About {
    /// `understudy-mini: qwen3, 6.8 M parameters, Q8_0, 7.1 MiB`.
    pub fn line(&self) -> String {
        format!(
            "{}: {}, {} parameters, {}, {}",
            self.id,
            self.architecture,
            Count(self.parameters),
            self.weight_type,
            Size(self.file_bytes)
        )
    }
}

/// Parameters for people: `6.8 M`, `1.5 B`.
struct Count(u64);

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0..1_000_000 => write!(f, "{}", self.0),
            1_000_000..1_000_000_000 => write!(f, "{:.1} M", self.0 as f64 / 1e6),
            _ => write!(f, "{:.1} B", self.0 as f64 / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use kernels::SharedBytes;
    use models::gguf::writer::GgufWriter;

    use super::*;

    #[test]
    fn recommendations_are_what_a_request_may_ask_for() {
        let defaults = |key: &str, number: f32| {
            let mut writer = GgufWriter::new();
            writer.set("general.architecture", "llama").set(&format!("general.sampling.{key}"), number);
            let gguf = Gguf::from_bytes(SharedBytes::new(Arc::new(writer.to_bytes())), "model.gguf").unwrap();
            sampling_defaults(&gguf).map_err(|e| e.to_string())
        };
        assert_eq!(defaults("temp", 0.6).unwrap().temperature, Some(0.6));
        assert_eq!(defaults("penalty_repeat", 0.01).unwrap().repetition_penalty, Some(0.01));
        let error = defaults("temp", f32::INFINITY).unwrap_err();
        assert_eq!(error, "model.gguf: metadata key \"general.sampling.temp\" is inf: must be a number from 0 to 2");
        for (key, number) in [("temp", f32::NAN), ("temp", -1.0), ("top_p", 1.5), ("min_p", -0.1), ("penalty_repeat", 0.0)] {
            assert!(defaults(key, number).unwrap_err().contains(key), "{key} {number}");
        }
    }
}
