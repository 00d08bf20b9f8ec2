//! The built-in model, or a script in its place, with a real engine driven by hand: many conversations at once, no sockets.

use std::sync::Arc;

use candle_core::Device;
use kernels::KvDtype;
use models::kv_cache::KvCache;
use models::{Gguf, Tokenizer};
use understudy::chat::chat_template::ChatTemplate;
use understudy::chat::output::{Flow, Output};
use understudy::chat::prepare::{Job, Surroundings, TextModel};
use understudy::chat::reply::Reply;
use understudy::chat::{Event, Request, SamplingDefaults};
use understudy::engine::engine_loop::EngineLoop;
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::{Engine, EngineConfig, TokenEvent, TokenStream};
use understudy::hub::builtin;
use understudy::scripted;
use understudy::scripted::runner::ScriptedRunner;
use understudy::scripted::script::Script;

/// Sequences that share a step.
pub const AT_ONCE: usize = 16;
const CONFIG: EngineConfig = EngineConfig {
    blocks: 64 * AT_ONCE,
    sequences_max: AT_ONCE,
    tokens_per_step_max: 512,
    queue_max: AT_ONCE,
    context_max: 2_048,
    drafts_max: 0,
    first_token_max: None,
};

pub struct BuiltIn {
    pub text: TextModel,
    engine: Engine,
    engine_loop: EngineLoop,
}

/// A reply as it was streamed, and as a whole.
pub struct Answer {
    pub events: Vec<Event>,
    pub reply: Reply,
}

impl BuiltIn {
    pub fn new() -> Self {
        let (gguf, tokenizer) = read();
        let template = ChatTemplate::of(&tokenizer).expect("it has a template");
        Self::of(&gguf, tokenizer, template)
    }

    /// As if it came with this template.
    pub fn with_template(source: &str) -> Self {
        let (gguf, tokenizer) = read();
        let template = ChatTemplate::new(Some(source), None, None, None).expect("the template parses");
        Self::of(&gguf, tokenizer, template)
    }

    /// A script in its place.
    pub fn scripted(script: &str) -> Self {
        let (_, tokenizer) = read();
        let script = Script::parse("script.toml", script).expect("the script can be read");
        let runner = ScriptedRunner::new(script, tokenizer.clone(), CONFIG.blocks).expect("it has marks of turns");
        let (engine, engine_loop) = Engine::without_thread(Box::new(runner), CONFIG);
        let template = scripted::template(&tokenizer).expect("it has a template");
        Self { text: TextModel::new(tokenizer, template, SamplingDefaults::default()), engine, engine_loop }
    }

    fn of(gguf: &Gguf, tokenizer: Arc<Tokenizer>, template: ChatTemplate) -> Self {
        let model = models::load(gguf, &Device::Cpu).expect("it can be loaded");
        let kv = KvCache::new(model.config(), CONFIG.blocks, KvDtype::F16, &Device::Cpu).expect("there is memory");
        let (engine, engine_loop) = Engine::without_thread(Box::new(LoadedRunner::new(model, kv)), CONFIG);
        Self { text: TextModel::new(tokenizer, template, SamplingDefaults::default()), engine, engine_loop }
    }

    /// Answers to requests of one choice each, in their order.
    pub fn answers(&mut self, requests: &[Request]) -> Vec<Answer> {
        self.events(requests).into_iter().map(Answer::of).collect()
    }

    /// The same as they were streamed, for replies that are the rest of one.
    pub fn events(&mut self, requests: &[Request]) -> Vec<Vec<Event>> {
        let surroundings = Surroundings { now_unix_s: 1_772_448_545, random: 7, prompt_tokens_max: CONFIG.context_max };
        let job = |request: &Request| -> Job {
            let mut jobs = self.text.prepare(request, surroundings).unwrap_or_else(|error| panic!("{error}: {request:?}"));
            assert_eq!(jobs.len(), 1, "one choice");
            jobs.remove(0)
        };
        let jobs: Vec<Job> = requests.iter().map(job).collect();
        let mut running: Vec<Running> = jobs.into_iter().map(|job| Running::new(&self.engine, job)).collect();
        while running.iter().any(|running| running.stream.is_some()) {
            assert!(self.engine_loop.turn());
            running.iter_mut().for_each(Running::take);
        }
        running.into_iter().map(|running| running.events).collect()
    }
}

struct Running {
    stream: Option<TokenStream>,
    output: Output,
    events: Vec<Event>,
}

impl Running {
    fn new(engine: &Engine, job: Job) -> Self {
        let mut output = job.output;
        let mut events = Vec::new();
        output.open(&mut events);
        Self { stream: Some(engine.generate(job.generate).expect("there is room")), output, events }
    }

    fn take(&mut self) {
        while let Some(event) = self.stream.as_mut().and_then(TokenStream::try_next) {
            match event {
                TokenEvent::Token(token) => {
                    if self.output.push(&token, 0, &mut self.events) == Flow::Done {
                        self.stream = None;
                    }
                }
                TokenEvent::Finished { reason, usage } => {
                    self.stream = None;
                    self.output.finish(reason, usage, &mut self.events);
                }
            }
        }
    }
}

impl Answer {
    fn of(events: Vec<Event>) -> Self {
        let mut reply = Reply::default();
        for event in &events {
            reply.push(event.clone()).unwrap_or_else(|message| panic!("{message}"));
        }
        Self { events, reply }
    }
}

fn read() -> (Gguf, Arc<Tokenizer>) {
    let gguf = Gguf::from_bytes(builtin::bytes(), "the built-in model").expect("the built-in model can be read");
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("it has a tokenizer"));
    (gguf, tokenizer)
}
