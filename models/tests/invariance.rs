//! The promise everything else leans on: a sequence's logits are the same bits alone, in company, chunked in any way, and
//! continued from blocks that stand in the cache already; whatever the family, the weights, the cache and the number of threads.

use candle_core::Device;
use kernels::{BLOCK_TOKENS, GgmlType, KvDtype, LogitRows};
use models::testing::batch::{Part, likeliest, logits_of, step_of};
use models::testing::tiny;
use models::{Family, KvCache, Model};

const TYPES: [GgmlType; 3] = [GgmlType::F32, GgmlType::Q8_0, GgmlType::Q4K];
const CACHES: [KvDtype; 2] = [KvDtype::F16, KvDtype::F32];
/// Longer than two chunks of 64, and no multiple of a block.
const PROMPT_TOKENS: usize = 150;
const NEW_TOKENS: usize = 12;

/// One case: the model and its cache type, in words for messages.
struct Case {
    model: Box<dyn Model>,
    kv: KvDtype,
    name: String,
}

impl Case {
    fn new(family: Family, ty: GgmlType, kv: KvDtype) -> Self {
        let model = models::load(&tiny(family, 7, ty), &Device::Cpu).expect("a tiny model loads");
        Self { model, kv, name: format!("{family:?} {ty:?} cache {kv:?}") }
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let models = Family::ALL.into_iter().flat_map(|family| TYPES.map(|ty| (family, ty)));
    models.flat_map(|(family, ty)| CACHES.map(|kv| Case::new(family, ty, kv)))
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn prompt(seed: u64, len: usize, vocab: usize) -> Vec<u32> {
    let mut state = seed + 1;
    (0..len).map(|_| (random(&mut state) % vocab as u64) as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    assert!(logits.iter().all(|logit| logit.is_finite()), "a logit is not finite");
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// All block numbers of a cache of `count`, in a scrambled order.
fn scrambled_blocks(count: usize, seed: u64) -> Vec<u32> {
    let (mut blocks, mut state): (Vec<u32>, u64) = ((0..count as u32).collect(), seed);
    for last in (1..count).rev() {
        blocks.swap(last, random(&mut state) as usize % (last + 1));
    }
    blocks
}

/// The prompt alone in one piece, then one token at a time: bits of the logits of each prompt position and each new token's.
fn alone(case: &mut Case, prompt: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut cache = KvCache::new(case.model.config(), 8, case.kv, &Device::Cpu).expect("a cache");
    let blocks: Vec<u32> = (0..8).collect();
    let (ids, step) = step_of(&[Part { tokens: prompt, cached: 0, blocks: &blocks, logits: LogitRows::All }]);
    let logits = case.model.forward(&ids, &step, &mut cache).expect("a forward pass");
    let mut all = bits(&logits.values);
    let mut tokens = vec![likeliest(logits.row(prompt.len() - 1))];
    while tokens.len() < NEW_TOKENS {
        let cached = prompt.len() + tokens.len() - 1;
        let last = [tokens[tokens.len() - 1]];
        let (ids, step) = step_of(&[Part { tokens: &last, cached, blocks: &blocks, logits: LogitRows::Last }]);
        let logits = case.model.forward(&ids, &step, &mut cache).expect("a forward pass");
        all.extend(bits(&logits.values));
        tokens.push(likeliest(logits.row(0)));
    }
    (all, tokens)
}

#[test]
fn chunk_size_changes_no_bit() {
    for mut case in cases() {
        let prompt = prompt(1, PROMPT_TOKENS, case.model.config().vocab);
        let whole = bits(&logits_of(case.model.as_mut(), &prompt, PROMPT_TOKENS, case.kv).expect("a forward pass").values);
        for chunk in [1, 7, 64] {
            let chunked = bits(&logits_of(case.model.as_mut(), &prompt, chunk, case.kv).expect("a forward pass").values);
            assert!(chunked == whole, "{}: chunks of {chunk} give other bits", case.name);
        }
    }
}

/// The engine's own chunk of 512, which the prompts above do not fill, and attention over several of its splits of 256 positions.
#[test]
fn chunks_of_a_long_prompt_change_no_bit() {
    // Two chunks of 512 and a part, four splits and a part, and no multiple of a block.
    const LONG_PROMPT_TOKENS: usize = 1_100;
    for family in Family::ALL {
        let mut case = Case::new(family, GgmlType::Q8_0, KvDtype::F16);
        let prompt = prompt(2, LONG_PROMPT_TOKENS, case.model.config().vocab);
        let whole = bits(&logits_of(case.model.as_mut(), &prompt, LONG_PROMPT_TOKENS, case.kv).expect("a forward pass").values);
        for chunk in [512, 64] {
            let chunked = bits(&logits_of(case.model.as_mut(), &prompt, chunk, case.kv).expect("a forward pass").values);
            assert!(chunked == whole, "{}: chunks of {chunk} give other bits", case.name);
        }
    }
}

/// A sequence of a batch that runs to its end.
struct Stranger {
    prompt: Vec<u32>,
    blocks: Vec<u32>,
    chunk: usize,
    computed: usize,
    tokens: Vec<u32>,
    bits: Vec<u32>,
}

impl Stranger {
    fn finished(&self) -> bool {
        self.tokens.len() == NEW_TOKENS
    }

    /// The tokens it computes next: some of the prompt, or the newest.
    fn next(&self) -> &[u32] {
        match self.prompt.get(self.computed..) {
            Some(rest) if !rest.is_empty() => &rest[..rest.len().min(self.chunk)],
            _ => &self.tokens[self.tokens.len() - 1..],
        }
    }
}

#[test]
fn company_changes_no_bit() {
    for mut case in cases() {
        let vocab = case.model.config().vocab;
        let lengths = [PROMPT_TOKENS, 1, 33, 64, 7, 100, 31, 129];
        let chunks = [64, 512, 7, 1, 3, 512, 40, 25];
        let mut free = scrambled_blocks(64, 99);
        let mut sequences: Vec<Stranger> = (0..8)
            .map(|index| Stranger {
                prompt: prompt(index as u64 + 1, lengths[index], vocab),
                blocks: free.split_off(free.len() - (lengths[index] + NEW_TOKENS).div_ceil(BLOCK_TOKENS)),
                chunk: chunks[index],
                computed: 0,
                tokens: Vec::new(),
                bits: Vec::new(),
            })
            .collect();
        let mut cache = KvCache::new(case.model.config(), 64, case.kv, &Device::Cpu).expect("a cache");
        let mut state = 5;
        while sequences.iter().any(|sequence| !sequence.finished()) {
            // Whoever is not finished, in a new order each step, and now and then one sits out.
            let mut running: Vec<usize> = (0..8).filter(|index| !sequences[*index].finished()).collect();
            for last in (1..running.len()).rev() {
                running.swap(last, random(&mut state) as usize % (last + 1));
            }
            if running.len() > 1 && random(&mut state).is_multiple_of(4) {
                running.pop();
            }
            let parts: Vec<Part<'_>> = running
                .iter()
                .map(|index| &sequences[*index])
                .map(|sequence| Part {
                    tokens: sequence.next(),
                    cached: sequence.computed,
                    blocks: &sequence.blocks,
                    logits: LogitRows::All,
                })
                .collect();
            let (ids, step) = step_of(&parts);
            let logits = case.model.forward(&ids, &step, &mut cache).expect("a forward pass");
            for (index, span) in running.into_iter().zip(&step.spans) {
                let (sequence, end) = (&mut sequences[index], span.q_start + span.q_len);
                sequence.computed += span.q_len;
                sequence.bits.extend((span.q_start..end).flat_map(|row| bits(logits.row(row))));
                if sequence.computed >= sequence.prompt.len() {
                    sequence.tokens.push(likeliest(logits.row(end - 1)));
                }
            }
        }
        for sequence in &sequences {
            let (lone_bits, lone_tokens) = alone(&mut case, &sequence.prompt);
            assert_eq!(sequence.tokens, lone_tokens, "{}, prompt of {}", case.name, sequence.prompt.len());
            // The last new token was sampled, not computed, in both.
            assert!(sequence.bits == lone_bits, "{}, prompt of {}: other bits in company", case.name, sequence.prompt.len());
        }
    }
}

#[test]
fn cached_prefix_changes_no_bit() {
    for mut case in cases() {
        let vocab = case.model.config().vocab;
        let prompt = prompt(1, PROMPT_TOKENS, vocab);
        let (expected, expected_tokens) = alone(&mut case, &prompt);
        // Another sequence with the same first 96 tokens has filled three blocks; ours takes them over and goes on in blocks of its own.
        let shared = 3 * BLOCK_TOKENS;
        let other = [&prompt[..shared], &self::prompt(42, 20, vocab)].concat();
        let mut cache = KvCache::new(case.model.config(), 16, case.kv, &Device::Cpu).expect("a cache");
        let theirs = [11, 2, 7, 5];
        let (ids, step) = step_of(&[Part { tokens: &other, cached: 0, blocks: &theirs, logits: LogitRows::None }]);
        let none = case.model.forward(&ids, &step, &mut cache).expect("a forward pass");
        assert!(none.values.is_empty(), "no logits were asked for");

        let ours = [11, 2, 7, 14, 0, 9];
        let part = Part { tokens: &prompt[shared..], cached: shared, blocks: &ours, logits: LogitRows::All };
        let (ids, step) = step_of(&[part]);
        let logits = case.model.forward(&ids, &step, &mut cache).expect("a forward pass");
        let rows = bits(&logits.values);
        assert!(rows == expected[shared * vocab..PROMPT_TOKENS * vocab], "{}: other bits after a prefix hit", case.name);
        assert_eq!(likeliest(logits.row(PROMPT_TOKENS - shared - 1)), expected_tokens[0]);
    }
}

/// The number of threads is fixed when the pool starts, so each number needs a process of its own: this test, run again.
#[test]
fn thread_count_changes_no_bit() {
    const THREADS: &str = "INVARIANCE_TEST_THREADS";
    if let Ok(threads) = std::env::var(THREADS) {
        let threads = threads.parse().expect("a number above 0");
        assert!(kernels::cpu::pool::set_threads(threads), "the pool has not started yet");
        assert_eq!(kernels::cpu::pool::pool().threads(), threads.get());
        println!("digest {:016x}", digest());
        return;
    }
    let digest_with = |threads: usize| -> String {
        let output = std::process::Command::new(std::env::current_exe().expect("this test's file"))
            .args(["--exact", "thread_count_changes_no_bit", "--nocapture"])
            .env(THREADS, threads.to_string())
            .output()
            .expect("this test runs again");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digest = text.lines().find_map(|line| line.split_once("digest ")).map(|(_, digest)| digest.to_owned());
        digest.unwrap_or_else(|| panic!("no digest with {threads} threads:\n{text}\n{}", String::from_utf8_lossy(&output.stderr)))
    };
    let one = digest_with(1);
    for threads in [2, 3] {
        assert_eq!(digest_with(threads), one, "{threads} threads give other bits than 1");
    }
}

/// FNV-1a over the bits of every case.
fn digest() -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325u64;
    for mut case in cases() {
        let prompt = prompt(3, PROMPT_TOKENS, case.model.config().vocab);
        let (bits, _) = alone(&mut case, &prompt);
        for byte in bits.into_iter().flat_map(u32::to_le_bytes) {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    digest
}
