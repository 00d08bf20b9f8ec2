//! What the fake model remembers beside its blocks: windows and a recurrent state, read through the tables and slots it is given.

use kernels::{BLOCK_TOKENS, Step};
use understudy::engine::layer_groups::StatePools;

/// Which layers the fake model has, and how much of each kind of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeGroups {
    pub pools: StatePools,
    /// No layer looks at everything: what stands in the blocks of full attention is not heard.
    pub nothing_full: bool,
}

impl FakeGroups {
    /// What the model hears at `position`: of all before it, of each window, and its state.
    pub fn heard(
        &self,
        position: usize,
        full: impl Fn(usize) -> u64,
        window: impl Fn(usize, usize) -> u64,
        state: impl Fn() -> u64,
    ) -> Vec<u64> {
        let mut heard: Vec<u64> = if self.nothing_full { Vec::new() } else { (0..=position).map(full).collect() };
        for (group, pool) in self.pools.windows.iter().enumerate() {
            heard.extend(((position + 1).saturating_sub(pool.window)..=position).map(|seen| window(group, seen)));
        }
        heard.extend(self.pools.state_slots.map(|_| state()));
        heard
    }
}

/// What stands in a window's slot: another number in each group, and dependent on everything before it.
pub fn in_window(digest: u64, group: usize) -> u64 {
    (digest ^ (group as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).rotate_left(17)
}

/// The state after one more token.
pub fn next_state(state: Option<u64>, token: u32, position: usize) -> u64 {
    let bits = (state.unwrap_or(0x5EED) ^ u64::from(token)).wrapping_mul(0xD6E8_FEB8_6659_FD93).wrapping_add(position as u64);
    bits ^ (bits >> 29)
}

/// The memory itself.
pub struct GroupMemory {
    pub groups: FakeGroups,
    /// By window, by slot.
    windows: Vec<Vec<u64>>,
    states: Vec<u64>,
}

impl GroupMemory {
    pub fn new(groups: FakeGroups) -> Self {
        let windows = groups.pools.windows.iter().map(|pool| vec![0; pool.blocks * BLOCK_TOKENS]).collect();
        let states = vec![0; groups.pools.state_slots.unwrap_or(0)];
        Self { groups, windows, states }
    }

    /// States the form that [`Step`] promises, and spoils all that the step is to write. Returns the states that its spans begin with.
    pub fn begin(&mut self, step: &Step, spoil: u64) -> Vec<Option<u64>> {
        assert_eq!(step.windows.len(), self.windows.len(), "a step has pages for each window");
        for (pages, memory) in step.windows.iter().zip(&mut self.windows) {
            let mut written = pages.slots.clone();
            written.sort_unstable();
            assert!(written.is_sorted_by(|a, b| a < b), "two rows write one slot of a window");
            assert_eq!((pages.slots.len(), pages.tables.len()), (step.rows(), step.tables.len()));
            pages.slots.iter().for_each(|slot| memory[*slot as usize] = spoil);
        }
        assert_eq!(step.states.len(), if self.states.is_empty() { 0 } else { step.spans.len() }, "a span has a state");
        for (index, slots) in step.states.iter().enumerate() {
            let others = step.states.iter().enumerate().filter(|(other, _)| *other != index);
            for (_, other) in others {
                assert!(other.to != slots.to && other.from != Some(slots.to), "{slots:?} writes what {other:?} needs");
            }
            let begins = step.spans[index].kv_len == step.spans[index].q_len;
            assert_eq!(slots.from.is_none(), begins, "only who begins has no state");
        }
        let in_place: Vec<Option<u64>> =
            step.states.iter().map(|slots| slots.from.filter(|from| *from == slots.to).map(|from| self.states[from as usize])).collect();
        step.states.iter().for_each(|slots| self.states[slots.to as usize] = spoil);
        let begin_with = step.states.iter().zip(in_place);
        begin_with.map(|(slots, own)| own.or(slots.from.map(|from| self.states[from as usize]))).collect()
    }

    /// Row `row` of the step has this digest.
    pub fn write(&mut self, step: &Step, row: usize, digest: u64) {
        for (group, (pages, memory)) in step.windows.iter().zip(&mut self.windows).enumerate() {
            memory[pages.slots[row] as usize] = in_window(digest, group);
        }
    }

    pub fn leave_state(&mut self, step: &Step, span: usize, state: Option<u64>) {
        if let (Some(slots), Some(state)) = (step.states.get(span), state) {
            self.states[slots.to as usize] = state;
        }
    }

    /// Of window `group`, what stands at `position` of the sequence behind row `table_row` of the tables.
    pub fn in_window(&self, step: &Step, group: usize, table_row: usize, position: usize) -> u64 {
        let block = step.windows[group].tables[table_row * step.blocks_max + position / BLOCK_TOKENS] as usize;
        self.windows[group][block * BLOCK_TOKENS + position % BLOCK_TOKENS]
    }
}
