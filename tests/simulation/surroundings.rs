//! What the engine works with in the simulation beside its model: masks that are late, a disk of moods.

use std::sync::{Arc, Mutex};

use understudy::engine::constraint::MaskJob;
use understudy::engine::disk_prefix::DiskLimits;

use crate::support::memory_store::{MemoryDisk, MemoryStore, Moment};
use crate::support::random::Random;

/// A mask that is late comes so many turns later, at most.
pub const TURNS_LATE_MAX: u64 = 3;

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
