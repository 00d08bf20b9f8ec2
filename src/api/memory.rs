//! What a server keeps of a reply so that it can be asked for again and later requests can go on from it. How much is kept, and for
//! how long, is the server's business; here stands what a dialect hands over and asks back.

use std::sync::Arc;

use serde_json::Value;

/// One request and its reply, as JSON text: kept as long as thousands of others, and looked into rarely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The reply's id.
    pub id: String,
    /// An array: what this request said, without what came before it.
    pub input: String,
    /// The reply as the client got it.
    pub reply: String,
}

impl Exchange {
    pub fn bytes(&self) -> usize {
        self.id.len() + self.input.len() + self.reply.len()
    }

    pub fn input(&self) -> Vec<Value> {
        serde_json::from_str(&self.input).expect("what is kept was written by us")
    }

    pub fn reply(&self) -> Value {
        serde_json::from_str(&self.reply).expect("what is kept was written by us")
    }
}

/// What a dialect tells of a reply that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The reply as far as it is.
    pub exchange: Exchange,
    /// The reply that this one goes on from.
    pub previous: Option<String>,
    /// Whether it can be asked for. One that cannot may still be cancelled by its id while it runs.
    pub keep: bool,
}

/// What is known of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recall {
    /// Never given, not kept, deleted or forgotten.
    Unknown,
    Running,
    /// Its conversation, first exchange to last; the last is its own.
    Kept(Vec<Arc<Exchange>>),
}

/// Replies given before.
pub trait Memory {
    fn recall(&self, id: &str) -> Recall;
}

/// A server that keeps nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoMemory;

impl Memory for NoMemory {
    fn recall(&self, _: &str) -> Recall {
        Recall::Unknown
    }
}
