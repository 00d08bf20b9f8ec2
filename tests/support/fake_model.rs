//! A model that is all memory: its next token depends on every token before it, read back through the block table and slots it was
//! given. A wrong table, a wrong slot, a stale or foreign block, a chunk computed twice or not at all: each changes what it says.
//!
//! What stands in a slot is what stands in a real cache, in small: a number that depends on the token and on everything before it
//! (each is mixed from its token, its position and the number in the slot before). With groups it has windows and a recurrent state as well, and
//! hears of each what a layer of that kind would see (`fake_groups`).

use kernels::{BLOCK_TOKENS, Step};
use models::Logits;
use understudy::engine::constraint::Ending;
use understudy::engine::layer_groups::StatePools;
use understudy::engine::prefix_cache::BlockId;
use understudy::engine::sampler::{Sampler, Scratch};
use understudy::engine::token_mask::TokenMask;
use understudy::engine::{EngineConfig, FinishReason, GenerateRequest, GeneratedToken, ModelRunner};

use super::fake_groups::{FakeGroups, GroupMemory, in_window, next_state};

/// `(tokens so far) -> next token`, for a model that says what a test wants to hear.
pub type Script = Box<dyn Fn(&[u32]) -> u32 + Send>;

pub struct FakeModel {
    vocab: usize,
    /// By slot: what was written there last.
    slots: Vec<Entry>,
    memory: GroupMemory,
    script: Option<Script>,
    /// Called in each step with its number, before anything is right; may fail it, or panic.
    fault: Fault,
    steps: u64,
}

pub type Fault = Box<dyn FnMut(u64, &Step) -> Result<(), String> + Send>;

#[derive(Clone, Copy, Default)]
struct Entry {
    token: u32,
    /// Mixed from the token, its position and all before it.
    digest: u64,
}

impl FakeModel {
    pub fn new(vocab: usize, blocks: usize) -> Self {
        let slots = vec![Entry::default(); blocks * BLOCK_TOKENS];
        let memory = GroupMemory::new(FakeGroups::default());
        Self { vocab, slots, memory, script: None, fault: Box::new(|_, _| Ok(())), steps: 0 }
    }

    /// Not all of its layers see everything.
    pub fn with_groups(mut self, groups: FakeGroups) -> Self {
        self.memory = GroupMemory::new(groups);
        self
    }

    /// Says what the script says, all but certainly (its logit stands 30 above the others).
    pub fn with_script(mut self, script: impl Fn(&[u32]) -> u32 + Send + 'static) -> Self {
        self.script = Some(Box::new(script));
        self
    }

    /// Fails, panics, takes its time or merely looks at the steps as they come.
    pub fn with_fault(mut self, fault: impl FnMut(u64, &Step) -> Result<(), String> + Send + 'static) -> Self {
        self.fault = Box::new(fault);
        self
    }

    /// What the engine must answer, from the definition of the model alone: no blocks, no batch, no engine.
    /// The tokens of the answer and why it ends.
    pub fn lone_run(vocab: usize, request: &GenerateRequest, config: &EngineConfig) -> (Vec<GeneratedToken>, FinishReason) {
        Self::lone_run_with(vocab, request, config, None)
    }

    /// The same of a model with this script.
    pub fn lone_run_with(
        vocab: usize,
        request: &GenerateRequest,
        config: &EngineConfig,
        script: Option<fn(&[u32]) -> u32>,
    ) -> (Vec<GeneratedToken>, FinishReason) {
        Self::lone_run_of(vocab, request, config, script, &FakeGroups::default())
    }

    /// The same of a model of these layers.
    pub fn lone_run_of(
        vocab: usize,
        request: &GenerateRequest,
        config: &EngineConfig,
        script: Option<fn(&[u32]) -> u32>,
        groups: &FakeGroups,
    ) -> (Vec<GeneratedToken>, FinishReason) {
        let mut history = request.prompt.clone();
        let stops = &request.stop_token_ids;
        let sampler = Sampler::new(request.sampling.clone(), request.top_logprobs, &request.prompt);
        let mut sampler = sampler.with_no_stop_before(request.prompt.len() + request.tokens_min, stops);
        let mut matcher = request.constraint.as_ref().map(|constraint| constraint.matcher().expect("the constraint is healthy"));
        let (mut output, mut digests, mut state) = (Vec::new(), Vec::new(), None);
        let total_max = config.context_max.min(request.tokens_max.map_or(usize::MAX, |tokens| request.prompt.len() + tokens));
        while history.len() < total_max {
            for (position, &token) in history.iter().enumerate().skip(digests.len()) {
                digests.push(digest_of(digests.last().copied(), token, position));
                state = Some(next_state(state, token, position));
            }
            let mut row = vec![0.0; vocab];
            let digest = |position: usize| digests[position];
            let window = |group, position: usize| in_window(digests[position], group);
            speak(&mut row, &groups.heard(history.len() - 1, digest, window, || state.expect("a prompt is not empty")));
            if let Some(script) = script {
                row[script(&history) as usize] += 30.0;
            }
            let mut allowed = None;
            if let Some(matcher) = &mut matcher {
                let mut mask = TokenMask::none(vocab);
                let ending = matcher.allow(&history[request.prompt.len()..], &mut mask).expect("the constraint is healthy");
                let may_go_on = (0..vocab as u32).any(|token| mask.contains(token) && !stops.contains(&token));
                if ending == Ending::Reached || !(may_go_on || ending == Ending::Anything) {
                    assert_ne!(ending, Ending::NotYet, "the constraint leads nowhere");
                    return (output, FinishReason::Stop);
                }
                let may_stop = ending == Ending::Possible;
                stops.iter().for_each(|&token| if may_stop { mask.insert(token) } else { mask.remove(token) });
                allowed = (ending != Ending::Anything).then_some(mask);
            }
            let token = sampler.sample_within(allowed.as_ref(), &row, history.len(), &mut Scratch::default());
            let token = token.expect("the fake model's logits are numbers");
            if stops.contains(&token.id) {
                return (output, FinishReason::Stop);
            }
            sampler.observe(token.id);
            history.push(token.id);
            output.push(token);
        }
        (output, FinishReason::Length)
    }
}

impl ModelRunner for FakeModel {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn state_pools(&self) -> StatePools {
        self.memory.groups.pools.clone()
    }

    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        self.steps += 1;
        check_form(token_ids, step, self.slots.len());
        // A step that fails leaves anything at all behind in the slots it was to write.
        for &slot in &step.slots {
            self.slots[slot as usize] = Entry { token: u32::MAX, digest: mix(self.steps) };
        }
        let mut states = self.memory.begin(step, mix(self.steps));
        states.resize(step.spans.len(), None);
        (self.fault)(self.steps, step)?;
        // Sequences are computed in the order of the batch; rows of one in order of position, as causal attention sees them.
        let mut state_of_row = vec![0; step.rows()];
        for (index, span) in step.spans.iter().enumerate() {
            let rows = span.q_start..span.q_start + span.q_len;
            for (position, row) in (span.kv_len - span.q_len..).zip(rows) {
                let before = position.checked_sub(1).map(|before| self.slots[slot(step.table(span), before)].digest);
                let digest = digest_of(before, token_ids[row], position);
                self.slots[step.slots[row] as usize] = Entry { token: token_ids[row], digest };
                self.memory.write(step, row, digest);
                state_of_row[row] = next_state(states[index], token_ids[row], position);
                states[index] = Some(state_of_row[row]);
            }
            self.memory.leave_state(step, index, states[index]);
        }
        let mut values = vec![0.0; step.logit_rows.len() * self.vocab];
        for (&row, logits) in step.logit_rows.iter().zip(values.chunks_exact_mut(self.vocab)) {
            let span = step.spans.iter().find(|span| (span.q_start..span.q_start + span.q_len).contains(&(row as usize)));
            let span = span.expect("every row belongs to a span");
            let table = step.table(span);
            let seen: Vec<Entry> = (0..=step.positions[row as usize] as usize).map(|position| self.slots[slot(table, position)]).collect();
            let window = |group, position| self.memory.in_window(step, group, span.table_row, position);
            let state = || state_of_row[row as usize];
            speak(logits, &self.memory.groups.heard(seen.len() - 1, |position| seen[position].digest, window, state));
            if let Some(script) = &self.script {
                let says = script(&seen.iter().map(|entry| entry.token).collect::<Vec<_>>());
                logits[says as usize] += 30.0;
            }
        }
        Ok(Logits { values, vocab: self.vocab })
    }

    fn block_bytes(&self) -> Option<usize> {
        Some(BLOCK_TOKENS * ENTRY_BYTES)
    }

    fn read_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), String> {
        for entry in &self.slots[block.index() * BLOCK_TOKENS..][..BLOCK_TOKENS] {
            out.extend(entry.token.to_le_bytes());
            out.extend(entry.digest.to_le_bytes());
        }
        Ok(())
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), String> {
        assert_eq!(bytes.len(), BLOCK_TOKENS * ENTRY_BYTES, "a block of another model");
        let entries = &mut self.slots[block.index() * BLOCK_TOKENS..][..BLOCK_TOKENS];
        for (entry, bytes) in entries.iter_mut().zip(bytes.as_chunks::<ENTRY_BYTES>().0) {
            let (token, digest) = bytes.split_first_chunk().expect("longer than a token");
            let digest = digest.try_into().expect("the rest is the digest");
            *entry = Entry { token: u32::from_le_bytes(*token), digest: u64::from_le_bytes(digest) };
        }
        Ok(())
    }
}

/// Of one slot, copied out: its token and its digest.
const ENTRY_BYTES: usize = 12;

/// The form that [`Step`] promises.
fn check_form(token_ids: &[u32], step: &Step, slots: usize) {
    assert_eq!((token_ids.len(), step.slots.len()), (step.rows(), step.rows()));
    let mut row = 0;
    for (index, span) in step.spans.iter().enumerate() {
        assert!(span.q_start == row && span.q_len > 0, "spans must follow each other: {:?}", step.spans);
        assert_eq!(span.table_row, index);
        let table = step.table(span);
        for (position, row) in (span.kv_len - span.q_len..span.kv_len).zip(row..) {
            assert_eq!(step.positions[row] as usize, position);
            for pages in &step.windows {
                let table = &pages.tables[span.table_row * step.blocks_max..][..table.len()];
                assert_eq!(pages.slots[row] as usize, slot(table, position), "row {row} writes where its window's table does not lead");
            }
            assert_eq!(step.slots[row] as usize, slot(table, position), "row {row} writes where its table does not lead");
        }
        row += span.q_len;
    }
    assert_eq!(row, step.rows());
    assert!(step.logit_rows.is_sorted_by(|a, b| a < b) && step.logit_rows.iter().all(|&wanted| (wanted as usize) < row));
    let mut written = step.slots.clone();
    written.sort_unstable();
    assert!(written.is_sorted_by(|a, b| a < b), "two rows write one slot");
    assert!(written.last().is_some_and(|&slot| (slot as usize) < slots));
}

fn slot(table: &[u32], position: usize) -> usize {
    table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

fn digest_of(before: Option<u64>, token: u32, position: usize) -> u64 {
    mix(mix(before.unwrap_or(1) ^ u64::from(token)).wrapping_add(position as u64))
}

/// Logits in -4..4 from the digests of all positions, the last of which alone would do if no slot were ever wrong.
fn speak(logits: &mut [f32], digests: &[u64]) {
    let heard = digests.iter().fold(0u64, |heard, digest| heard.rotate_left(5).wrapping_add(*digest));
    for (token, logit) in (1u64..).zip(logits) {
        *logit = (mix(heard.wrapping_add(token.wrapping_mul(0xD1B5_4A32_D192_ED03))) >> 40) as f32 / (1u64 << 21) as f32 - 4.0;
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    bits ^ (bits >> 32)
}
