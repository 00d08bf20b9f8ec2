//! Texts to vectors of length 1: one thread owns the embedding model, and lets the engine's streams go first.
//!
//! Work is taken a few texts at a time from each request in turn, so that a large batch holds up nobody's single question. Which texts come
//! together changes no bit of a vector (`models::embedding`). Knows no wire format.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use models::embedding::{Embedder, EmbeddingError, Gives, Sequence, TextEncoder};
use tokio::sync::{oneshot, watch};

/// Requests that wait or are computed: each holds at most [`REQUEST_TOKENS_MAX`] tokens, 38 MB for all.
const REQUESTS_MAX: usize = 32;
/// Tokens of one request, all texts together; OpenAI's bound.
pub const REQUEST_TOKENS_MAX: usize = 300_000;
/// Tokens computed for a request before the next one has its turn.
const TURN_TOKENS: usize = 512;
/// While the engine computes for somebody, of each stretch of work so many times its length are left to it.
const REST: u32 = 2;
/// The longest rest: work is in pieces of milliseconds, and one that took long is no reason to stop for seconds.
const REST_MAX: Duration = Duration::from_millis(200);

/// What there is to know of the model.
#[derive(Debug, Clone)]
pub struct About {
    /// The name replies carry.
    pub id: String,
    pub text: TextEncoder,
    /// Longest text.
    pub tokens_max: usize,
    pub width: usize,
    pub vocab: usize,
    pub gives: Gives,
    /// No model of its own: the chat model's hidden states are pooled.
    pub is_chat_model: bool,
}

/// A handle; clones share the thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Embeddings {
    jobs: SyncSender<Job>,
    about: Arc<About>,
    unanswered: watch::Sender<usize>,
}

/// One request.
struct Job {
    sequences: Vec<Sequence>,
    vectors: Vec<Vec<f32>>,
    /// Closed when the client has gone.
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, String>>,
    _ticket: Ticket,
}

/// Counts an answer that is owed.
struct Ticket(watch::Sender<usize>);

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    #[error("{REQUESTS_MAX} requests for embeddings are waiting already")]
    Busy,
    #[error("the thread of the embedding model has stopped")]
    Stopped,
    #[error("{0}")]
    Failed(String),
}

impl Embeddings {
    /// Starts the thread. `is_busy`: whether somebody waits for the engine now.
    pub fn start(embedder: Box<dyn Embedder>, about: About, is_busy: impl Fn() -> bool + Send + 'static) -> Self {
        let (jobs, received) = std::sync::mpsc::sync_channel(REQUESTS_MAX);
        let worker = Worker { embedder, received, jobs: VecDeque::new(), is_busy: Box::new(is_busy) };
        std::thread::Builder::new().name("embeddings".into()).spawn(move || worker.run()).expect("the operating system gives no thread");
        Self { jobs, about: Arc::new(about), unanswered: watch::Sender::new(0) }
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    /// The model's outputs, one a sequence: vectors as they are, of any length. Dropping the future cancels within one piece of work.
    pub async fn embed(&self, sequences: Vec<Sequence>) -> Result<Vec<Vec<f32>>, EmbedError> {
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket::take(&self.unanswered).ok_or(EmbedError::Busy)?;
        let job = Job { vectors: Vec::with_capacity(sequences.len()), sequences, reply, _ticket: ticket };
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => return Err(EmbedError::Stopped),
            Err(TrySendError::Full(_)) => unreachable!("the channel has a place for every ticket"),
        }
        answer.await.map_err(|_| EmbedError::Stopped)?.map_err(EmbedError::Failed)
    }

    /// Waits until nobody waits for an answer.
    pub async fn drained(&self) {
        let mut unanswered = self.unanswered.subscribe();
        // The sender lives in self.
        let _ = unanswered.wait_for(|unanswered| *unanswered == 0).await;
    }
}

impl Ticket {
    /// `None`: there are as many as may be.
    fn take(unanswered: &watch::Sender<usize>) -> Option<Self> {
        let taken = unanswered.send_if_modified(|unanswered| {
            let room = *unanswered < REQUESTS_MAX;
            *unanswered += usize::from(room);
            room
        });
        taken.then(|| Self(unanswered.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.send_modify(|unanswered| *unanswered -= 1);
    }
}

struct Worker {
    embedder: Box<dyn Embedder>,
    received: Receiver<Job>,
    jobs: VecDeque<Job>,
    is_busy: Box<dyn Fn() -> bool + Send>,
}

impl Worker {
    fn run(mut self) {
        while self.step() {}
    }

    /// One turn of one request; waits for a request where there is none. `false`: none will ever come.
    fn step(&mut self) -> bool {
        if self.jobs.is_empty() {
            let Ok(job) = self.received.recv() else { return false };
            self.jobs.push_back(job);
        }
        self.jobs.extend(self.received.try_iter());
        let job = self.jobs.pop_front().expect("one has just come");
        if let Some(unfinished) = self.turn(job) {
            self.jobs.push_back(unfinished);
        }
        true
    }

    /// A few texts of `job`; gives it back while there are more.
    fn turn(&mut self, mut job: Job) -> Option<Job> {
        let rest = &job.sequences[job.vectors.len()..];
        let few = &rest[..texts_of_a_turn(rest)];
        let Self { embedder, is_busy, .. } = self;
        let mut working_since = Instant::now();
        let mut pause = || {
            if job.reply.is_closed() {
                return ControlFlow::Break(());
            }
            if is_busy() {
                std::thread::sleep((working_since.elapsed() * REST).min(REST_MAX));
            }
            working_since = Instant::now();
            ControlFlow::Continue(())
        };
        let vectors = catch_unwind(AssertUnwindSafe(|| embedder.embed(few, &mut pause)));
        let failed = |message: String| Some(Err(message));
        let answer = match vectors {
            Ok(Ok(vectors)) => {
                job.vectors.extend(vectors);
                if job.vectors.len() < job.sequences.len() {
                    return Some(job);
                }
                Some(Ok(std::mem::take(&mut job.vectors)))
            }
            Ok(Err(EmbeddingError::Interrupted)) => None,
            Ok(Err(error)) => failed(first_line(&error.to_string())),
            Err(panic) => failed(format!("the embedding model panicked: {}", message_of(&*panic))),
        };
        if let Some(answer) = answer {
            // Who has gone meanwhile wants no answer.
            let _ = job.reply.send(answer);
        }
        None
    }
}

/// How many from the front make a turn: at least one.
fn texts_of_a_turn(sequences: &[Sequence]) -> usize {
    let mut tokens = 0;
    let within = |sequence: &&Sequence| {
        tokens += sequence.ids.len();
        tokens <= TURN_TOKENS
    };
    sequences.iter().take_while(within).count().max(1).min(sequences.len())
}

/// Of the first `dimensions` numbers, scaled to length 1. A vector of zeros stays one.
pub fn normalised(mut vector: Vec<f32>, dimensions: Option<usize>) -> Vec<f32> {
    vector.truncate(dimensions.unwrap_or(usize::MAX));
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    vector
}

/// Of two vectors of length 1.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// A cross-encoder's number as a share: `1 / (1 + e^-x)`.
pub fn probability(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// What follows may be a backtrace, which is for the log.
fn first_line(message: &str) -> String {
    let Some((first, rest)) = message.split_once('\n') else { return message.to_owned() };
    tracing::error!("{first}; what the client is not told:\n{rest}");
    first.to_owned()
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_a_few_texts_and_at_least_one() {
        let of = |lengths: &[usize]| lengths.iter().map(|length| Sequence::single(vec![0; *length])).collect::<Vec<_>>();
        for (lengths, texts) in [(&[600, 1][..], 1), (&[256, 256, 1], 2), (&[1, 512], 1), (&[3, 4], 2), (&[], 0)] {
            assert_eq!(texts_of_a_turn(&of(lengths)), texts, "{lengths:?}");
        }
    }

    /// Its vectors are the lengths of the texts.
    struct Lengths;

    impl Embedder for Lengths {
        fn width(&self) -> usize {
            1
        }

        fn vocab(&self) -> usize {
            1
        }

        fn embed(&mut self, sequences: &[Sequence], pause: &mut models::embedding::Pause<'_>) -> Result<Vec<Vec<f32>>, EmbeddingError> {
            match pause() {
                ControlFlow::Continue(()) => Ok(sequences.iter().map(|sequence| vec![sequence.ids.len() as f32]).collect()),
                ControlFlow::Break(()) => Err(EmbeddingError::Interrupted),
            }
        }
    }

    #[test]
    fn a_single_text_does_not_wait_for_the_batch_before_it() {
        let (jobs, received) = std::sync::mpsc::sync_channel(4);
        let mut worker = Worker { embedder: Box::new(Lengths), received, jobs: VecDeque::new(), is_busy: Box::new(|| false) };
        let unanswered = watch::Sender::new(0);
        let ask = |lengths: &[usize]| {
            let sequences = lengths.iter().map(|length| Sequence::single(vec![0; *length])).collect();
            let (reply, answer) = oneshot::channel();
            let ticket = Ticket::take(&unanswered).expect("there is room");
            jobs.try_send(Job { sequences, vectors: Vec::new(), reply, _ticket: ticket }).expect("there is room");
            answer
        };
        // Two turns, one turn, and one that nobody waits for.
        let (mut large, mut single) = (ask(&[400, 300, 200]), ask(&[5]));
        drop(ask(&[7]));
        assert!(worker.step() && worker.step());
        assert_eq!(single.try_recv().expect("it has its answer"), Ok(vec![vec![5.0]]));
        large.try_recv().expect_err("it is not finished");
        assert!(worker.step() && worker.step());
        assert_eq!(large.try_recv().expect("two turns are enough"), Ok(vec![vec![400.0], vec![300.0], vec![200.0]]));
        assert_eq!(*unanswered.borrow(), 0);
        drop(jobs);
        assert!(!worker.step());
    }

    #[test]
    fn lengths_and_likenesses() {
        assert_eq!(normalised(vec![3.0, 4.0], None), [0.6, 0.8]);
        assert_eq!(normalised(vec![3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(normalised(vec![0.0, 0.0], None), [0.0, 0.0]);
        assert!((cosine(&[0.6, 0.8], &[0.8, 0.6]) - 0.96).abs() < 1e-6);
        assert_eq!(probability(0.0), 0.5);
        assert!(probability(-40.0) < 1e-17 && probability(40.0) == 1.0);
    }
}
