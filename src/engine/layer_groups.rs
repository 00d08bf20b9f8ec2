//! Decides what a sequence keeps for layers whose state is not the keys and values of all its tokens.
//!
//! Layers are in groups that differ in what they remember:
//! - full attention: every token, in blocks. This group is there always (without layers its blocks cost nothing): its blocks are the nodes
//!   of the tree of prefixes, and `block_manager` has it.
//! - a sliding window: the last so many tokens, in blocks of the group's own. A block wholly behind the window is let go while the sequence
//!   runs, and may be found again until its place is needed.
//! - recurrent state: one slot for all recurrent layers. A step reads one slot and leaves the new state in the same or in another: the old
//!   one is kept where the step may have to be undone (drafts, a late mask), and where it is a *checkpoint* that others may go on from.
//!
//! A prefix can be gone on from where every group can: full attention needs all blocks before, a window those of its last tokens, recurrent
//! layers a checkpoint at that very place.
//!
//! Knows no tokens and no tensor.
#![deny(clippy::disallowed_methods)]

use std::collections::VecDeque;

use kernels::{BLOCK_TOKENS, StateSlots};
use models::state::{STATE_SLOTS_PER_SEQUENCE, window_blocks_per_sequence};

use super::Priority;
use super::prefix_cache::BlockId;
use super::state_pool::{StatePool, Worth};

/// What a runner keeps beside the blocks of full attention; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatePools {
    /// One entry a window that layers have, as in [`kernels::Step::windows`].
    pub windows: Vec<WindowPool>,
    /// Slots of recurrent state: two for each sequence that runs, the rest are checkpoints. `None`: there are no recurrent layers.
    pub state_slots: Option<usize>,
}

/// The layers of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowPool {
    /// Tokens that a row sees, itself included; at least 1.
    pub window: usize,
    /// Blocks that these layers have.
    pub blocks: usize,
}

/// The groups of a model, but for full attention.
#[derive(Debug, Default)]
pub struct LayerGroups {
    windows: Vec<WindowGroup>,
    states: Option<StatePool>,
}

#[derive(Debug)]
struct WindowGroup {
    window: usize,
    pool: StatePool,
}

/// What one sequence holds of each group.
#[derive(Debug, Default)]
pub struct GroupTables {
    windows: Vec<WindowTable>,
    state: StateTable,
    /// While it runs.
    is_charged: bool,
}

/// Blocks `first..first + blocks.len()` of a sequence, counted from its beginning.
#[derive(Debug, Default)]
struct WindowTable {
    first: usize,
    blocks: VecDeque<u32>,
}

#[derive(Debug, Default)]
struct StateTable {
    /// Holds the state after all computed tokens; `None` before the first.
    current: Option<u32>,
    /// Where the planned step leaves the state; may be `current`. `None`: no step is planned.
    next: Option<u32>,
}

/// Where a prefix ends that others may begin with, or the same conversation goes on from: a whole number of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPoint {
    /// Tokens before it.
    pub position: usize,
    pub worth: Worth,
}

impl GroupTables {
    /// By window: the number of the first block held, and the blocks.
    pub fn windows(&self) -> impl Iterator<Item = (usize, &VecDeque<u32>)> {
        self.windows.iter().map(|table| (table.first, &table.blocks))
    }
    /// For the planned step.
    pub fn state_slots(&self) -> Option<StateSlots> {
        self.state.next.map(|to| StateSlots { from: self.state.current, to })
    }
}

/// The first block that a row at `position` sees.
fn first_block(position: usize, window: usize) -> usize {
    (position + 1).saturating_sub(window) / BLOCK_TOKENS
}

impl LayerGroups {
    /// For `nodes` blocks of full attention, and steps of up to `tokens_per_step_max` rows.
    pub fn new(pools: &StatePools, nodes: usize, tokens_per_step_max: usize) -> Self {
        let windows = pools.windows.iter().map(|&WindowPool { window, blocks }| {
            assert!(window > 0, "a window of 0 tokens sees nothing");
            let charge = window_blocks_per_sequence(window, tokens_per_step_max).min(nodes);
            WindowGroup { window, pool: StatePool::new(blocks, charge, nodes) }
        });
        let states = pools.state_slots.map(|slots| StatePool::new(slots, STATE_SLOTS_PER_SEQUENCE, nodes));
        Self { windows: windows.collect(), states }
    }

    /// All layers are full attention.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.states.is_none()
    }
    pub fn has_state(&self) -> bool {
        self.states.is_some()
    }
    pub fn windows(&self) -> usize {
        self.windows.len()
    }
    /// Checkpoints that nobody reads at the moment.
    pub fn checkpoints_cached(&self) -> usize {
        self.states.as_ref().map_or(0, StatePool::cached)
    }

    /// Sequences that may still be let in.
    pub fn room(&self) -> usize {
        self.pools().map(StatePool::room).min().unwrap_or(usize::MAX)
    }

    /// Of a chain of nodes, the most from the beginning that all groups can go on from.
    pub fn depth(&self, chain: &[BlockId]) -> usize {
        if self.is_empty() {
            return chain.len();
        }
        let mut deepest = 0;
        let mut runs = vec![0; self.windows.len()];
        for (index, &node) in chain.iter().enumerate() {
            let depth = index + 1;
            let mut goes_on = self.states.as_ref().is_none_or(|states| states.unit_of(node).is_some());
            for (WindowGroup { window, pool }, run) in self.windows.iter().zip(&mut runs) {
                *run = if pool.unit_of(node).is_some() { *run + 1 } else { 0 };
                goes_on &= *run >= depth - first_block(depth * BLOCK_TOKENS, *window).min(depth);
            }
            if goes_on {
                deepest = depth;
            }
        }
        deepest
    }

    /// A sequence begins, behind `chain`, which all groups can go on from. There is room.
    pub fn enter(&mut self, chain: &[BlockId], priority: Priority) -> GroupTables {
        if self.is_empty() {
            return GroupTables::default();
        }
        self.pools_mut().for_each(StatePool::charge);
        let windows = self.windows.iter().map(|_| WindowTable::default()).collect();
        let mut tables = GroupTables { windows, state: StateTable::default(), is_charged: true };
        self.jump(&mut tables, chain, priority);
        tables
    }

    /// The sequence goes on behind `chain` instead of where it is.
    pub fn jump(&mut self, tables: &mut GroupTables, chain: &[BlockId], priority: Priority) {
        self.let_go(tables);
        let Some((last, before)) = chain.split_last() else { return };
        for (WindowGroup { window, pool }, table) in self.windows.iter_mut().zip(&mut tables.windows) {
            table.first = first_block(chain.len() * BLOCK_TOKENS, *window).min(chain.len());
            for node in &chain[table.first..] {
                let block = pool.unit_of(*node).expect("the window before the place is there");
                pool.share(block, priority);
                table.blocks.push_back(block);
            }
            before.iter().for_each(|node| pool.passed(*node));
        }
        if let Some(states) = &mut self.states {
            let checkpoint = states.unit_of(*last).expect("there is a checkpoint at the place");
            states.share(checkpoint, priority);
            tables.state.current = Some(checkpoint);
            before.iter().for_each(|node| states.passed(*node));
        }
    }

    /// Before a step that computes `start..end`: lets go what lies behind the window of its first row, takes what it writes. `may_be_undone`:
    /// what is known now must still be there after it.
    pub fn cover(&mut self, tables: &mut GroupTables, start: usize, end: usize, may_be_undone: bool) {
        for (WindowGroup { window, pool }, table) in self.windows.iter_mut().zip(&mut tables.windows) {
            let first = first_block(start, *window);
            while table.first < first {
                table.blocks.pop_front().into_iter().for_each(|block| pool.leave(block));
                table.first += 1;
            }
            while (table.first + table.blocks.len()) * BLOCK_TOKENS < end {
                table.blocks.push_back(pool.take());
            }
        }
        if let Some(states) = &mut self.states {
            let StateTable { current, next } = &mut tables.state;
            // What others may go on from is never written.
            let in_place = current.filter(|current| !may_be_undone && !states.is_attached(*current));
            let has_own = next.is_some() && next != current;
            if !has_own {
                *next = Some(in_place.unwrap_or_else(|| states.take()));
            }
        }
    }

    /// The planned step did not come about, or was in vain.
    pub fn undo(&mut self, tables: &mut GroupTables) {
        let StateTable { current, next } = &mut tables.state;
        if let (Some(states), Some(unused)) = (&mut self.states, next.take().filter(|next| Some(*next) != *current)) {
            states.leave(unused);
        }
    }

    /// The planned step is computed.
    pub fn step_done(&mut self, tables: &mut GroupTables) {
        let StateTable { current, next } = &mut tables.state;
        let (Some(states), Some(new)) = (&mut self.states, next.take()) else { return };
        if let Some(old) = current.replace(new).filter(|old| *old != new) {
            states.leave(old);
        }
    }

    /// Block number `index` of the sequence is full, computed and known as `node`: so are the windows' blocks of that number.
    pub fn publish(&mut self, tables: &GroupTables, index: usize, node: BlockId, priority: Priority, restarts: &[RestartPoint]) {
        for (WindowGroup { window, pool }, table) in self.windows.iter_mut().zip(&tables.windows) {
            let Some(&block) = index.checked_sub(table.first).and_then(|held| table.blocks.get(held)) else { continue };
            let sees = |position: usize| (first_block(position, *window) * BLOCK_TOKENS..position).contains(&(index * BLOCK_TOKENS));
            let worth = restarts.iter().filter(|restart| sees(restart.position)).map(|restart| restart.worth).max();
            if !pool.is_attached(block) {
                pool.attach(block, node, priority, worth.unwrap_or_default());
            }
        }
    }

    /// The state of the sequence is the one after the tokens of `node`, which others may go on from.
    pub fn checkpoint(&mut self, tables: &GroupTables, node: BlockId, priority: Priority, worth: Worth) {
        let (Some(states), Some(current)) = (&mut self.states, tables.state.current) else { return };
        if !states.is_attached(current) {
            states.attach(current, node, priority, worth);
        }
    }

    /// The sequence leaves, whose published blocks are `nodes`. What others begin with as well goes last among what it used.
    pub fn release(&mut self, tables: &mut GroupTables, nodes: &[BlockId]) {
        self.let_go(tables);
        self.pools_mut().for_each(|pool| nodes.iter().rev().for_each(|node| pool.passed(*node)));
        if std::mem::take(&mut tables.is_charged) {
            self.pools_mut().for_each(StatePool::discharge);
        }
    }

    /// A node is given up; nobody holds what hangs on it.
    pub fn forget(&mut self, node: BlockId) {
        self.pools_mut().for_each(|pool| pool.forget(node));
    }

    /// The promises of this file, for the sequences there are: each with its nodes (of its full and published blocks) and how many of its
    /// tokens are computed.
    pub fn check<'a>(
        &self,
        sequences: impl Iterator<Item = (&'a GroupTables, &'a [BlockId], usize)>,
        is_node: impl Fn(BlockId) -> bool + Copy,
    ) -> Result<(), String> {
        let no_holders = || self.pools().map(|pool| vec![0u32; pool.total()]).collect::<Vec<_>>();
        let (mut holders, mut charged) = (no_holders(), 0);
        for (tables, nodes, computed) in sequences {
            charged += usize::from(tables.is_charged);
            if tables.windows.len() != self.windows.len() {
                return Err(format!("a sequence has tables for {} of {} windows", tables.windows.len(), self.windows.len()));
            }
            for ((group, table), holders) in self.windows.iter().zip(&tables.windows).zip(&mut holders) {
                group.check(table, nodes, computed)?;
                table.blocks.iter().for_each(|block| holders[*block as usize] += 1);
            }
            if let Some(states) = &self.states {
                let StateTable { current, next } = tables.state;
                if current.is_some() != (computed > 0) {
                    return Err(format!("a sequence with {computed} tokens computed has the state {current:?}"));
                }
                for held in current.into_iter().chain(next.filter(|next| Some(*next) != current)) {
                    holders.last_mut().expect("the states come last")[held as usize] += 1;
                }
                let node = (computed / BLOCK_TOKENS).checked_sub(1).and_then(|index| nodes.get(index));
                if let Some(current) = current.filter(|current| states.is_attached(*current))
                    && (!computed.is_multiple_of(BLOCK_TOKENS) || node.and_then(|node| states.unit_of(*node)) != Some(current))
                {
                    return Err(format!("a sequence with {computed} tokens computed reads a checkpoint of another place"));
                }
            }
        }
        self.pools().zip(&holders).try_for_each(|(pool, holders)| pool.check(holders, charged, is_node))
    }

    fn let_go(&mut self, tables: &mut GroupTables) {
        for (WindowGroup { pool, .. }, table) in self.windows.iter_mut().zip(&mut tables.windows) {
            // Last first, so that the beginning of a window is not older than its end.
            table.blocks.drain(..).rev().for_each(|block| pool.leave(block));
            table.first = 0;
        }
        self.undo(tables);
        if let (Some(states), Some(current)) = (&mut self.states, tables.state.current.take()) {
            states.leave(current);
        }
    }

    fn pools(&self) -> impl Iterator<Item = &StatePool> {
        self.windows.iter().map(|group| &group.pool).chain(&self.states)
    }
    fn pools_mut(&mut self) -> impl Iterator<Item = &mut StatePool> {
        self.windows.iter_mut().map(|group| &mut group.pool).chain(&mut self.states)
    }
}

impl WindowGroup {
    /// The next row finds all it sees, and what others can find stands where they look.
    fn check(&self, table: &WindowTable, nodes: &[BlockId], computed: usize) -> Result<(), String> {
        let Self { window, pool } = self;
        let (first, end) = (table.first, table.first + table.blocks.len());
        if first > first_block(computed, *window) || end * BLOCK_TOKENS < computed {
            return Err(format!("blocks {first}..{end} of a window of {window} tokens do not cover the one before token {computed}"));
        }
        for (index, &block) in (first..).zip(&table.blocks) {
            let node = nodes.get(index).filter(|node| pool.unit_of(**node) == Some(block));
            if pool.is_attached(block) && node.is_none() {
                return Err(format!("block {index} of a window is unit {block}, which others find as something else"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
