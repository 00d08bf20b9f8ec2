//! Who thought what: hashes of the signatures that came by, the newest so many.

use std::collections::{HashMap, VecDeque};

/// Who wrote something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// This machine.
    Here,
    /// The upstream of this number.
    Upstream(usize),
}

/// Bounded: the oldest entry goes when a new one needs its place.
#[derive(Debug)]
pub struct Ledger {
    entries_max: usize,
    authors: HashMap<u128, Author>,
    /// From the oldest to the newest.
    order: VecDeque<u128>,
}

impl Ledger {
    pub fn new(entries_max: usize) -> Self {
        Self { entries_max, authors: HashMap::new(), order: VecDeque::new() }
    }

    /// `proof`: a signature, or what else shows who thought something.
    pub fn note(&mut self, proof: &str, author: Author) {
        let hash = hash(proof);
        if self.authors.insert(hash, author).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > self.entries_max {
            if let Some(oldest) = self.order.pop_front() {
                self.authors.remove(&oldest);
            }
        }
    }

    pub fn author_of(&self, proof: &str) -> Option<Author> {
        self.authors.get(&hash(proof)).copied()
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

fn hash(proof: &str) -> u128 {
    let hash = blake3::hash(proof.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(half)
}
