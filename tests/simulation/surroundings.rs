//! What the engine works with in the simulation: layers of all kinds, masks that are late, a disk of moods.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use models::state::{STATE_SLOTS_PER_SEQUENCE, window_blocks_per_sequence};
use understudy::engine::constraint::MaskJob;
use understudy::engine::disk_prefix::DiskLimits;
use understudy::engine::draft_model::DraftModel;
use understudy::engine::draft_plan::DraftLimits;
use understudy::engine::engine_loop::Clock;
use understudy::engine::layer_groups::{StatePools, WindowPool};
use understudy::engine::{EngineConfig, Landmarks};

use super::VOCAB;
use crate::support::fake_groups::FakeGroups;
use crate::support::fake_model::FakeModel;
use crate::support::memory_store::{MemoryDisk, MemoryStore, Moment};
use crate::support::random::Random;

/// A mask that is late comes so many turns later, at most.
pub const TURNS_LATE_MAX: u64 = 3;

/// A model that repeats itself, but not always.
pub fn echo(history: &[u32]) -> u32 {
    let length = history.len();
    let before = history[length.saturating_sub(11)];
    if length % 13 == 5 { (before + 1) % VOCAB as u32 } else { before }
}

/// Computes masks at once, or puts them off by some turns.
pub fn when_the_weather_allows(seed: u64, late: u64, put_off: Arc<Mutex<Vec<(usize, MaskJob)>>>) -> impl FnMut(MaskJob) + Send {
    let mut random = Random(seed ^ 0x1A7E);
    move |job| match random.chance(late) {
        true => put_off.lock().unwrap().push((random.between(1, TURNS_LATE_MAX) as usize, job)),
        false => job.compute().hand_over(),
    }
}

/// A disk of moods, and what the engine asks of one.
pub fn disk(random: &mut Random, disk: &MemoryDisk) -> (MemoryStore, DiskLimits) {
    let limits = DiskLimits {
        prompt_tokens_min: random.between(33, 70) as usize,
        gain_blocks_min: random.between(1, 2) as usize,
        bytes_per_turn: random.between(1, 2_000) as usize,
    };
    // A writer that is often full would make the loop wait, and a simulation has no time.
    let most = [(Moment::Late, 900), (Moment::Busy, 200), (Moment::Full, 30), (Moment::Lost, 200)];
    let moods = most.map(|(moment, per_mille)| (moment, random.either(0, per_mille)));
    let mut moments = Random(random.bits());
    let goes_wrong = move |moment| {
        let mood = moods.iter().find(|(other, _)| *other == moment);
        moments.chance(mood.map_or(0, |(_, per_mille)| *per_mille))
    };
    (MemoryStore::new(disk.clone(), goes_wrong), limits)
}

/// Steps that take any time whatever: what is concluded from it must not matter. Where `quick` is set, as a draft model's step sets it, none has
/// passed, so that guessing pays.
pub fn clock(seed: u64, now_ms: Arc<AtomicU64>, quick: Arc<AtomicBool>) -> Clock {
    let mut moments = Random(seed ^ 0xC10C);
    Box::new(move || {
        let step_ms = if quick.swap(false, Ordering::Relaxed) { 0 } else { moments.below(40) };
        Duration::from_millis(now_ms.fetch_add(step_ms, Ordering::Relaxed) + step_ms)
    })
}

/// A draft model that is the model itself, or one that is right in two of three places, or never; with a cache of its own of a few blocks,
/// and with accidents.
pub fn draft(seed: u64, vocab: usize, script: Option<fn(&[u32]) -> u32>, quick: Arc<AtomicBool>) -> Option<DraftModel> {
    let mut random = Random(seed ^ 0xD4AF);
    if !random.chance(600) {
        return None;
    }
    let blocks = random.between(1, 20) as usize;
    let is_quick = random.chance(800);
    let fails = if random.chance(200) { random.below(60) } else { 0 };
    let mut faults = Random(random.bits());
    let model = FakeModel::new(vocab, blocks).with_fault(move |_, _| {
        quick.store(is_quick, Ordering::Relaxed);
        match faults.chance(fails) {
            true if faults.chance(500) => std::panic::resume_unwind(Box::new("the draft model panics".to_owned())),
            true => Err("the draft model fails".to_owned()),
            false => Ok(()),
        }
    });
    let model = match (random.below(3), script) {
        (0, Some(script)) => model.with_script(script),
        (1, Some(script)) => model.with_script(move |history| if history.len() % 3 == 0 { 7 % vocab as u32 } else { script(history) }),
        (2, _) => model.with_script(|history| history.len() as u32 % 5),
        _ => model,
    };
    let limits =
        DraftLimits { blocks, context_max: random.between(40, 500) as usize, tokens_per_step_max: random.between(32, 90) as usize };
    Some(DraftModel::new(Box::new(model), limits))
}

/// Layers that all see everything, in most models that have a disk, which is for them alone, and in some others; else windows, a recurrent state, or
/// both, in pools that hold one sequence or more.
pub fn groups(random: &mut Random, config: &EngineConfig, has_disk: bool) -> FakeGroups {
    if random.chance(if has_disk { 900 } else { 150 }) {
        return FakeGroups::default();
    }
    let has_state = random.chance(600);
    let windows = (0..random.between(u64::from(!has_state), 2)).map(|_| {
        let (short, long) = (random.between(1, 70), random.between(1, 400));
        let window = random.either(short, long) as usize;
        let least = window_blocks_per_sequence(window, config.tokens_per_step_max).min(config.blocks);
        WindowPool { window, blocks: least + random.below(2 * least as u64 + 10) as usize }
    });
    let windows = windows.collect();
    let spare = random.below(2 * config.sequences_max as u64 + 4) as usize;
    let pools = StatePools { windows, state_slots: has_state.then_some(STATE_SLOTS_PER_SEQUENCE + spare) };
    FakeGroups { pools, nothing_full: random.chance(300) }
}

/// Places in a prompt, some of them beyond it.
pub fn landmarks(random: &mut Random, prompt: usize) -> Landmarks {
    let mut place = || random.chance(500).then(|| random.below(prompt as u64 + 20) as usize);
    Landmarks { instructions_end: place(), last_turn: place() }
}

pub fn tokens(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.below(VOCAB as u64) as u32).collect()
}
