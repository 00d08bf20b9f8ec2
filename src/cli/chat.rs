//! `understudy chat`: a conversation in the terminal, without a server. With a pipe on stdin, every line is a message and gets its answer.

use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::sync::Notify;

use super::args::ChatArgs;
use super::disk_cache;
use super::failure::{Failure, INTERRUPTED};
use super::load::{Loaded, load};
use super::print;
use crate::chat::output::Flow;
use crate::chat::prepare::{Job, Surroundings};
use crate::chat::{Conversation, Event, FinishReason, Message, Prompt, Request, Role, SamplingOptions, ToolChoice};
use crate::config::Config;
use crate::engine::TokenEvent;

const HELP: &str =
    "/clear forgets the conversation, /exit or Ctrl-D ends it; Ctrl-C stops an answer, or ends the program while it waits for a line";

pub fn run(config: &Config, args: &ChatArgs) -> Result<(), Failure> {
    let loaded = load(config)?;
    // One thread beside this one, which hears of Ctrl-C while this one waits for a line.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("a runtime")?;
    let interrupts = Interrupts::default();
    let mut chat = Chat { loaded: &loaded, runtime: &runtime, args, messages: Vec::new(), random: random(), interrupts };
    chat.clear();
    let outcome = if std::io::stdin().is_terminal() { chat.in_terminal() } else { chat.answer_pipe() };
    if let Some(disk) = &loaded.disk {
        disk.flush(disk_cache::FLUSH_LIMIT);
    }
    outcome
}

struct Chat<'a> {
    loaded: &'a Loaded,
    runtime: &'a tokio::runtime::Runtime,
    args: &'a ChatArgs,
    messages: Vec<Message>,
    /// The seed of the next answer where none was typed.
    random: u64,
    interrupts: Interrupts,
}

/// What Ctrl-C does on a terminal: it stops the answer that is being given; where none is, it ends the program. While rustyline edits a
/// line it takes Ctrl-C for itself.
#[derive(Clone, Default)]
struct Interrupts {
    answering: Arc<AtomicBool>,
    stop: Arc<Notify>,
}

enum Said {
    Message(String),
    Nothing,
    Exit,
}

impl Chat<'_> {
    fn in_terminal(&mut self) -> Result<(), Failure> {
        print::remark(format!("{}\n{HELP}", self.loaded.about.line()));
        self.interrupts.heed_on(self.runtime);
        let mut editor = DefaultEditor::new().map_err(of_terminal)?;
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(line.as_str());
                    match self.hear(&line) {
                        Said::Exit => return Ok(()),
                        Said::Nothing => {}
                        Said::Message(text) => {
                            if let Err(why) = self.answer(text)? {
                                print::remark(why);
                            }
                        }
                    }
                }
                Err(ReadlineError::Interrupted) => return Err(Failure::Interrupted),
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(of_terminal(error)),
            }
        }
    }

    /// Signals are left to the system, whose way is to end the program: who writes into a pipe wants no second chance.
    fn answer_pipe(&mut self) -> Result<(), Failure> {
        for line in std::io::stdin().lock().lines() {
            match self.hear(&line.context("standard input")?) {
                Said::Exit => return Ok(()),
                Said::Nothing => {}
                Said::Message(text) => {
                    // A script must learn that there is no answer.
                    if let Err(why) = self.answer(text)? {
                        return Err(anyhow::anyhow!("{why}").into());
                    }
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, line: &str) -> Said {
        match line.trim() {
            "" => Said::Nothing,
            "/exit" | "/quit" | "/bye" => Said::Exit,
            "/clear" => {
                self.clear();
                Said::Nothing
            }
            "/help" | "/?" => {
                print::remark(HELP);
                Said::Nothing
            }
            text => Said::Message(text.to_owned()),
        }
    }

    fn clear(&mut self) {
        self.messages = self.args.system.iter().map(|text| Message::text(Role::System, text)).collect();
    }

    /// Prints the answer as it comes; `Err(why)` in the result where there is none, and the conversation stands as before.
    fn answer(&mut self, text: String) -> Result<Result<(), String>, Failure> {
        self.messages.push(Message::text(Role::User, text));
        match self.generate() {
            Ok(reply) => {
                self.messages.push(Message::text(Role::Assistant, reply?));
                print::piece("\n")?;
                Ok(Ok(()))
            }
            Err(why) => {
                self.messages.pop();
                Ok(Err(why))
            }
        }
    }

    /// The whole text of the answer, as far as it got.
    fn generate(&mut self) -> Result<Result<String, Failure>, String> {
        let job = self.job()?;
        let Job { generate, mut output } = job;
        let mut stream = self.loaded.engine.generate(generate).map_err(|refused| format!("{refused}; /clear begins anew"))?;
        // From before the flag on: a Ctrl-C that finds an answer under way reaches it.
        let stopped = self.interrupts.stop.notified();
        self.interrupts.answering.store(true, Ordering::SeqCst);
        let reply = self.runtime.block_on(async {
            tokio::pin!(stopped);
            let mut reply = String::new();
            let mut events = Vec::new();
            output.open(&mut events);
            loop {
                for event in events.drain(..) {
                    match event {
                        Event::Text(delta) => {
                            if let Err(failure) = print::piece(&delta.text) {
                                return Ok(Err(failure));
                            }
                            reply.push_str(&delta.text);
                        }
                        Event::Failed(message) => return Err(message),
                        Event::Finished { reason: FinishReason::Length, .. } => {
                            print::remark("\n(cut: the context or --max-tokens is used up)");
                            return Ok(Ok(reply));
                        }
                        Event::Finished { .. } => return Ok(Ok(reply)),
                        _ => {}
                    }
                }
                // Dropping the stream cancels the request.
                let next = tokio::select! {
                    next = stream.next() => next,
                    () = &mut stopped => {
                        print::remark("\n(stopped)");
                        return Ok(Ok(reply));
                    }
                };
                match next {
                    Some(TokenEvent::Token(token)) => {
                        if output.push(&token, stream.cached_tokens(), &mut events) == Flow::Done {
                            continue;
                        }
                    }
                    Some(TokenEvent::Finished { reason, usage }) => output.finish(reason, usage, &mut events),
                    None => return Err("the engine has stopped".to_owned()),
                }
            }
        });
        self.interrupts.answering.store(false, Ordering::SeqCst);
        reply
    }

    fn job(&mut self) -> Result<Job, String> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let conversation = Conversation {
            messages: self.messages.clone(),
            tools: Vec::new(),
            tool_choice: ToolChoice::None,
            parallel_tool_calls: true,
            template_variables: serde_json::Map::new(),
            ..Conversation::default()
        };
        let request = Request {
            prompts: vec![Prompt::Conversation(conversation)],
            choices_per_prompt: 1,
            tokens_max: self.args.max_tokens,
            sampling: SamplingOptions { temperature: self.args.temperature, seed: self.args.seed, ..SamplingOptions::default() },
            ..Request::default()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let surroundings = Surroundings { now_unix_s: now, random: self.random, prompt_tokens_max: self.loaded.engine.prompt_tokens_max() };
        let jobs = self.loaded.text.prepare(&request, surroundings).map_err(|e| e.to_string())?;
        jobs.into_iter().next().ok_or_else(|| "no prompt was made".to_owned())
    }
}

impl Interrupts {
    /// From now on. The handler stands when this returns, and not only when the task runs: rustyline puts aside the one it finds when it
    /// begins a line, and brings that one back when the line is there.
    fn heed_on(&self, runtime: &tokio::runtime::Runtime) {
        let _context = runtime.enter();
        let mut next = Box::pin(tokio::signal::ctrl_c());
        if next.as_mut().now_or_never().is_some() {
            // A system that cannot tell us of Ctrl-C ends the program by itself.
            return;
        }
        let interrupts = self.clone();
        runtime.spawn(async move {
            while next.await.is_ok() {
                if !interrupts.answering.load(Ordering::SeqCst) {
                    print::wait_for_last_lines();
                    std::process::exit(INTERRUPTED.into());
                }
                interrupts.stop.notify_waiters();
                next = Box::pin(tokio::signal::ctrl_c());
            }
        });
    }
}

/// As text: the error says what lies below it and names it as its source, too, so that it would be printed twice.
fn of_terminal(error: ReadlineError) -> Failure {
    anyhow::anyhow!("this terminal: {error}").into()
}

/// From the hasher's keys, which the system seeds.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
