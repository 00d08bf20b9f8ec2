//! Finds a token by its name: a hash table of ids over names that stay where the file lies. Knows no kinds of tokens.
//!
//! A map that owns its keys would cost an allocation a token, and is what start-up would spend its time on: vocabularies have
//! 150,000 tokens and more.

use crate::gguf::Array;

use super::hash::Seed;

pub(super) struct NameTable {
    /// Ids by hash, each at the first free place from there on; a power of two, at most half full.
    places: Vec<u32>,
    seed: Seed,
}

const FREE: u32 = u32::MAX;

/// Two tokens of one name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Twice {
    pub(super) first: u32,
    pub(super) second: u32,
}

impl NameTable {
    /// Of all names that are not empty. Error: one of them is there twice.
    pub(super) fn new(names: &Array) -> Result<Self, Twice> {
        let places = (2 * names.len()).next_power_of_two().max(2);
        let mut table = Self { places: vec![FREE; places], seed: Seed::new() };
        for (id, name) in names.strings().enumerate().filter(|(_, name)| !name.is_empty()) {
            match table.place(names, name) {
                Ok(first) => return Err(Twice { first, second: id as u32 }),
                Err(free) => table.places[free] = id as u32,
            }
        }
        Ok(table)
    }

    /// The token of that name; `names` are those the table was made of.
    pub(super) fn id(&self, names: &Array, name: &[u8]) -> Option<u32> {
        self.place(names, name).ok()
    }

    /// The id of `name`, or the place where it would stand.
    fn place(&self, names: &Array, name: &[u8]) -> Result<u32, usize> {
        let mask = self.places.len() - 1;
        let mut place = self.seed.of_bytes(name) as usize & mask;
        loop {
            match self.places[place] {
                FREE => return Err(place),
                id if names.string_bytes(id as usize) == Some(name) => return Ok(id),
                _ => place = (place + 1) & mask,
            }
        }
    }
}
