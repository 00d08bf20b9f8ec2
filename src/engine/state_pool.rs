//! Decides which units of one pool hold what, where layers keep something else than the keys and values of every token: blocks of
//! sliding-window layers, or slots of recurrent state.
//!
//! What a unit holds is known by the block of full attention that stands for the same tokens, its *node* in the tree of prefixes: a unit is
//! *attached* to the node whose tokens it holds (a window's block), or after whose tokens it is the state (a checkpoint). So a unit is found
//! exactly when its node is, and is forgotten with it.
//!
//! A unit is in exactly one of three places: free, owned (by one or more sequences) or cached (attached, owned by nobody). Every running
//! sequence is charged the most units that it can ever hold at once, however many it shares, so taking one never fails. What nobody was
//! charged for is cache.
//!
//! Knows no sequence and no tensor.
#![deny(clippy::disallowed_methods)]

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Priority;
use super::prefix_cache::BlockId;

/// The units of one kind of state.
#[derive(Debug)]
pub struct StatePool {
    /// By unit: how many sequences hold it.
    owners: Vec<u32>,
    free: Vec<u32>,
    /// Attached units without an owner, in the order in which they are given up.
    cached: BTreeMap<Keep, u32>,
    /// By unit.
    attached: Vec<Option<Attached>>,
    /// By node: the unit that is attached to it.
    by_node: Vec<Option<u32>>,
    /// Units that a running sequence is charged.
    charge: usize,
    /// Sequences that are charged.
    charged: usize,
    tick: u64,
}

#[derive(Debug, Clone, Copy)]
struct Attached {
    node: BlockId,
    /// The most urgent of those who have held it.
    priority: Priority,
    worth: Worth,
    /// Its key in `cached`, where it is there.
    keep: Keep,
}

/// How likely somebody goes on from here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Somewhere in the middle.
    #[default]
    Passing,
    /// A place where the next request of a conversation parts from this one.
    Turn,
    /// Where instructions and tools end: what other conversations begin with as well.
    Instructions,
}

/// What is smaller is given up first: the less urgent, then what nobody is expected to go on from, then what was used earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Keep {
    priority: Reverse<Priority>,
    is_expected: bool,
    tick: u64,
}

impl StatePool {
    /// `charge`: the most units that one sequence holds at once. The nodes are `0..nodes`.
    pub fn new(units: usize, charge: usize, nodes: usize) -> Self {
        assert!((1..=units).contains(&charge), "a sequence of {charge} units can never fit into {units}");
        Self {
            owners: vec![0; units],
            // Taken from the back: the lowest number first.
            free: (0..units as u32).rev().collect(),
            cached: BTreeMap::new(),
            attached: vec![None; units],
            by_node: vec![None; nodes],
            charge,
            charged: 0,
            tick: 0,
        }
    }

    /// Sequences that may still be charged.
    pub fn room(&self) -> usize {
        self.owners.len() / self.charge - self.charged
    }
    pub fn charge(&mut self) {
        assert!(self.room() > 0, "{} sequences are charged {} of {} units", self.charged, self.charge, self.owners.len());
        self.charged += 1;
    }
    pub fn discharge(&mut self) {
        self.charged -= 1;
    }

    /// A unit whose content is nobody's any more, for a sequence that is charged and holds fewer than its charge.
    pub fn take(&mut self) -> u32 {
        let unit = self.free.pop().unwrap_or_else(|| {
            let (_, unit) = self.cached.pop_first().expect("what a sequence is charged for is free or cached");
            self.detach(unit);
            unit
        });
        self.owners[unit as usize] = 1;
        unit
    }

    /// One more holds the unit.
    pub fn share(&mut self, unit: u32, priority: Priority) {
        let attached = self.attached[unit as usize].as_mut().expect("only an attached unit is shared");
        if self.owners[unit as usize] == 0 {
            let cached = self.cached.remove(&attached.keep);
            assert!(cached == Some(unit), "unit {unit} has no owner and is not cached");
        }
        attached.priority = attached.priority.min(priority);
        self.owners[unit as usize] += 1;
    }

    /// One holds it no more: an attached unit without an owner stays cached, another is free.
    pub fn leave(&mut self, unit: u32) {
        let owners = &mut self.owners[unit as usize];
        assert!(*owners > 0, "unit {unit} is left but has no owner");
        *owners -= 1;
        if *owners > 0 {
            return;
        }
        match self.attached[unit as usize] {
            Some(_) => self.file(unit),
            None => self.free.push(unit),
        }
    }

    /// The unit is found by `node` from now on; not where another one is. Whether it is attached.
    pub fn attach(&mut self, unit: u32, node: BlockId, priority: Priority, worth: Worth) -> bool {
        if let Some(other) = self.by_node[node.index()] {
            // The same stands there already; what is known of this one is true of it.
            let attached = self.attached[other as usize].as_mut().expect("what a node leads to is attached");
            (attached.priority, attached.worth) = (attached.priority.min(priority), attached.worth.max(worth));
            if self.cached.remove(&attached.keep).is_some() {
                self.file(other);
            }
            return false;
        }
        assert!(self.attached[unit as usize].is_none(), "unit {unit} is attached already");
        assert!(self.owners[unit as usize] > 0, "unit {unit} is attached by nobody");
        let keep = Keep { priority: Reverse(priority), is_expected: worth > Worth::Passing, tick: 0 };
        self.attached[unit as usize] = Some(Attached { node, priority, worth, keep });
        self.by_node[node.index()] = Some(unit);
        true
    }

    pub fn unit_of(&self, node: BlockId) -> Option<u32> {
        self.by_node[node.index()]
    }
    pub fn is_attached(&self, unit: u32) -> bool {
        self.attached[unit as usize].is_some()
    }
    /// Units that nobody holds and that can be found.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }
    pub fn total(&self) -> usize {
        self.owners.len()
    }

    /// Somebody went on from behind `node`: if instructions end there, others will do so too.
    pub fn passed(&mut self, node: BlockId) {
        let Some(unit) = self.by_node[node.index()] else { return };
        let Attached { worth, keep, .. } = self.attached[unit as usize].expect("what a node leads to is attached");
        if worth == Worth::Instructions && self.cached.remove(&keep).is_some() {
            self.file(unit);
        }
    }

    /// The node is given up, and so is what hangs on it. Nobody can hold that: who does holds the node.
    pub fn forget(&mut self, node: BlockId) {
        let Some(unit) = self.by_node[node.index()] else { return };
        let keep = self.attached[unit as usize].expect("what a node leads to is attached").keep;
        let cached = self.cached.remove(&keep);
        assert!(cached == Some(unit), "{node:?} is given up while unit {unit} on it is held");
        self.detach(unit);
        self.free.push(unit);
    }

    /// The promises of this file; `holders`: by unit, how many sequences say that they hold it.
    pub fn check(&self, holders: &[u32], charged: usize, is_node: impl Fn(BlockId) -> bool) -> Result<(), String> {
        if holders != self.owners {
            return Err(format!("units have the owners {:?}, but sequences hold {holders:?}", self.owners));
        }
        if charged != self.charged || self.charged * self.charge > self.total() {
            return Err(format!("{charged} sequences run, {} are charged {} of {} units", self.charged, self.charge, self.total()));
        }
        let mut places = vec![0u32; self.total()];
        self.free.iter().for_each(|unit| places[*unit as usize] += 1);
        for (keep, &unit) in &self.cached {
            places[unit as usize] += 1;
            let attached = self.attached[unit as usize].ok_or_else(|| format!("unit {unit} is cached and attached to nothing"))?;
            let due = Keep { priority: Reverse(attached.priority), is_expected: attached.worth > Worth::Passing, tick: keep.tick };
            if attached.keep != *keep || due != *keep {
                return Err(format!("unit {unit} is cached under the wrong key"));
            }
        }
        for (unit, attached) in (0u32..).zip(&self.attached) {
            let owned = u32::from(self.owners[unit as usize] > 0);
            if places[unit as usize] + owned != 1 {
                return Err(format!("unit {unit} is in {} places", places[unit as usize] + owned));
            }
            if self.free.contains(&unit) && attached.is_some() {
                return Err(format!("unit {unit} is free and attached"));
            }
            if let Some(attached) = attached.filter(|attached| self.unit_of(attached.node) != Some(unit) || !is_node(attached.node)) {
                return Err(format!("unit {unit} is attached to {:?}, which does not lead to it", attached.node));
            }
        }
        let (units, nodes) = (self.attached.iter().flatten().count(), self.by_node.iter().flatten().count());
        if units != nodes {
            return Err(format!("{units} units are attached, {nodes} nodes have one"));
        }
        Ok(())
    }

    /// Among the cached, as the one used last.
    fn file(&mut self, unit: u32) {
        self.tick += 1;
        let attached = self.attached[unit as usize].as_mut().expect("only an attached unit is cached");
        attached.keep = Keep { priority: Reverse(attached.priority), is_expected: attached.worth > Worth::Passing, tick: self.tick };
        self.cached.insert(attached.keep, unit);
    }

    fn detach(&mut self, unit: u32) {
        let attached = self.attached[unit as usize].take().expect("only an attached unit is detached");
        self.by_node[attached.node.index()] = None;
    }
}
