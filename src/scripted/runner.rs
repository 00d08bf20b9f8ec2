//! The scripted model as the engine runs it: rows in, logits out, at the script's pace.
//!
//! What stands in a slot of its cache depends on the token and on all before it, as keys and values do: what is said next is read back
//! through the block table, so the wrong block would be heard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::{BLOCK_TOKENS, Span, Step};
use models::{Logits, Tokenizer};

use super::closing::{self, RANKS};
use super::history::{Asked, TurnMarks};
use super::reply::{Advice, Reply, overlap};
use super::script::Script;
use crate::chat::output::split_mix;
use crate::engine::ModelRunner;

/// Of a slot: token, digest, beginning of the turn.
pub const SLOT_BYTES: usize = 4 + 8 + 4;

/// Replies that are remembered; all are forgotten when there are more. A few kilobytes each.
const REPLIES_MAX: usize = 4096;

/// Logits. The gaps are so wide that no temperature, penalty or bias that a request may ask for changes who is next; the script is a
/// fact, and only a grammar is stronger.
const NEXT_ADVICE: f32 = -1_000.0;
const END: f32 = -10_000.0;
const CLOSING: f32 = -20_000.0;
const CLOSING_STEP: f32 = -20.0;
const OTHERS: f32 = CLOSING + CLOSING_STEP * ((RANKS + 1) * 256) as f32;

/// A script with a cache.
pub struct ScriptedRunner {
    script: Script,
    tokenizer: Arc<Tokenizer>,
    marks: TurnMarks,
    /// The token that is a byte alone, by byte.
    bytes: Vec<Option<u32>>,
    slots: Slots,
    /// By the digest of all before the reply.
    replies: HashMap<u64, Arc<Reply>>,
    /// What follows texts without turns: the first replies of the script, in its order.
    first_replies: Vec<Reply>,
}

/// By slot. Three vectors, so that pages of a slot nobody has written are not touched.
struct Slots {
    tokens: Vec<u32>,
    /// Mixed from the token, its position and all before it.
    digests: Vec<u64>,
    /// One more than the position where the turn of this token begins; 0: before the first turn.
    turns: Vec<u32>,
}

impl ScriptedRunner {
    /// `None`: this tokenizer has no marks of turns.
    pub fn new(script: Script, tokenizer: Arc<Tokenizer>, blocks: usize) -> Option<Self> {
        let slots = blocks * BLOCK_TOKENS;
        let mut bytes = vec![None; 256];
        for token in (0..tokenizer.vocab_size() as u32).rev() {
            if let [byte] = tokenizer.token_bytes(token, false) {
                bytes[usize::from(*byte)] = Some(token);
            }
        }
        let first_replies = script.first_replies().map(|(scripted, _)| Reply::new(scripted, &Asked::default(), &tokenizer)).collect();
        Some(Self {
            first_replies,
            marks: TurnMarks::of(&tokenizer)?,
            script,
            tokenizer,
            bytes,
            slots: Slots { tokens: vec![0; slots], digests: vec![0; slots], turns: vec![0; slots] },
            replies: HashMap::new(),
        })
    }

    fn write(&mut self, token_ids: &[u32], step: &Step, span: &Span) {
        let table = step.table(span);
        for (row, position) in (span.q_start..span.q_start + span.q_len).zip(span.kv_len - span.q_len..) {
            let before = position.checked_sub(1).map(|before| slot(table, before));
            let (digest, turn) = before.map_or((1, 0), |before| (self.slots.digests[before], self.slots.turns[before]));
            let (token, slot) = (token_ids[row], step.slots[row] as usize);
            self.slots.tokens[slot] = token;
            self.slots.digests[slot] = split_mix(digest ^ u64::from(token) ^ ((position as u64) << 32));
            self.slots.turns[slot] = if token == self.marks.start { position as u32 + 1 } else { turn };
        }
    }

    /// What follows the token at `position`, and how long the reply wants to take for it.
    fn advise(&mut self, table: &[u32], position: usize) -> (Advice, Option<u8>, Option<f64>) {
        let turn = self.slots.turns[slot(table, position)] as usize;
        let since =
            |start: usize, slots: &Slots| (start..=position).map(|position| slots.tokens[slot(table, position)]).collect::<Vec<_>>();
        if let Some(start) = turn.checked_sub(1)
            && let Some(said) = self.text(&since(turn, &self.slots)).strip_prefix(b"assistant\n")
        {
            let digest = self.slots.digests[slot(table, start)];
            let reply = match self.replies.get(&digest) {
                Some(reply) => reply.clone(),
                None => {
                    let before: Vec<u32> = (0..start).map(|position| self.slots.tokens[slot(table, position)]).collect();
                    self.remember(digest, &before)
                }
            };
            return (reply.advise(said, &self.tokenizer), said.last().copied(), reply.tokens_per_s);
        }
        // A text without turns: nothing says where the prompt ends, so it ends where a reply to it begins.
        let text = self.text(&since(0, &self.slots));
        self.advise_in_text(&String::from_utf8_lossy(&text))
    }

    fn remember(&mut self, digest: u64, before: &[u32]) -> Arc<Reply> {
        let asked = Asked::read(before, self.marks, &self.tokenizer);
        let scripted = match self.script.knows(&asked.beside_results) {
            true => self.script.reply(&asked.beside_results, 0),
            false => self.script.reply(&asked.human, asked.tool_rounds),
        };
        let reply = Arc::new(Reply::new(scripted, &asked, &self.tokenizer));
        if self.replies.len() >= REPLIES_MAX {
            self.replies.clear();
        }
        self.replies.insert(digest, reply.clone());
        reply
    }

    fn advise_in_text(&self, text: &str) -> (Advice, Option<u8>, Option<f64>) {
        for (reply, (_, follows)) in self.first_replies.iter().zip(self.script.first_replies()) {
            let (prompt, said) = text.split_at(text.len() - overlap(text, reply.text()));
            if follows(prompt) {
                return (reply.advise(said.as_bytes(), &self.tokenizer), said.bytes().last(), reply.tokens_per_s);
            }
        }
        unreachable!("the default follows everything")
    }

    fn text(&self, tokens: &[u32]) -> Vec<u8> {
        tokens.iter().flat_map(|&token| self.tokenizer.token_bytes(token, true)).copied().collect()
    }

    fn speak(&self, logits: &mut [f32], advice: &Advice, last: Option<u8>) {
        logits.fill(OTHERS);
        for byte in 0..=255u8 {
            if let Some(token) = self.bytes[usize::from(byte)] {
                let rank = closing::rank(advice.place, last, byte) * 256 + usize::from(byte);
                logits[token as usize] = CLOSING + CLOSING_STEP * rank as f32;
            }
        }
        if let Some(end) = self.tokenizer.eos() {
            logits[end as usize] = END;
        }
        for (&token, rank) in advice.tokens.iter().zip(0u8..) {
            logits[token as usize] = NEXT_ADVICE * f32::from(rank);
        }
    }
}

impl ModelRunner for ScriptedRunner {
    fn vocab(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        let start = Instant::now();
        let vocab = self.vocab();
        let mut values = vec![0.0; step.logit_rows.len() * vocab];
        let mut rows = values.chunks_exact_mut(vocab);
        let mut wanted = step.logit_rows.iter().copied().peekable();
        let (mut prompt_rows, mut slowest_s) = (0, 0.0f64);
        for span in &step.spans {
            self.write(token_ids, step, span);
            let end = span.q_start + span.q_len;
            let mut token_s = 0.0f64;
            let mut spoken = 0;
            while let Some(row) = wanted.next_if(|row| (*row as usize) < end) {
                let position = span.kv_len - span.q_len + row as usize - span.q_start;
                let (advice, last, tokens_per_s) = self.advise(step.table(span), position);
                let logits = rows.next().expect("a row for each that is wanted");
                self.speak(logits, &advice, last);
                let tokens_per_s = tokens_per_s.or(self.script.pace.tokens_per_s);
                token_s += tokens_per_s.map_or(0.0, f64::recip);
                spoken += 1;
            }
            prompt_rows += span.q_len - spoken;
            slowest_s = slowest_s.max(token_s);
        }
        let prompt_s = self.script.pace.prompt_tokens_per_s.map_or(0.0, |per_s| prompt_rows as f64 / per_s);
        // As with a real model, a step takes as long as the slowest of those in it.
        let wanted = Duration::try_from_secs_f64(prompt_s + slowest_s).unwrap_or(Duration::MAX);
        if let Some(rest) = wanted.checked_sub(start.elapsed()).filter(|rest| !rest.is_zero()) {
            std::thread::sleep(rest);
        }
        Ok(Logits { values, vocab })
    }
}

fn slot(table: &[u32], position: usize) -> usize {
    table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

#[cfg(test)]
mod tests {
    use super::super::json_cursor::Place;
    use super::*;

    #[test]
    fn ranks_do_not_meet() {
        let worst = CLOSING + CLOSING_STEP * (RANKS * 256 + 255) as f32;
        assert!(OTHERS < worst && CLOSING < END && END < NEXT_ADVICE * 8.0);
        // The steps are not lost in an f32.
        assert_eq!(worst - (worst + CLOSING_STEP), -CLOSING_STEP);
        assert_eq!(closing::rank(Place::Colon, None, b':'), 0);
    }
}
