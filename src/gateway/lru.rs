//! A map that holds so many entries and forgets the one that was used least recently: names that clients choose (models, credentials,
//! conversations) cost no more memory than that.
#![deny(clippy::disallowed_methods)]

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub struct Lru<K, V> {
    /// With the number of its last use.
    entries: HashMap<K, (u64, V)>,
    entries_max: usize,
    uses: u64,
}

impl<K: Eq + Hash + Clone, V> Lru<K, V> {
    pub fn new(entries_max: usize) -> Self {
        assert!(entries_max > 0, "a map for nothing remembers nothing");
        Self { entries: HashMap::new(), entries_max, uses: 0 }
    }

    /// Looks without using.
    pub fn peek<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.uses += 1;
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.uses;
        Some(value)
    }

    /// Walks all entries where one must go: 1,024 of them in a few microseconds, and only for a new name in a full map.
    pub fn get_or_insert_with(&mut self, key: &K, value: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if !self.entries.contains_key(key) && self.entries.len() == self.entries_max {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(oldest, _)| oldest.clone());
            self.entries.remove(&oldest.expect("a full map has an oldest entry"));
        }
        let (used, value) = self.entries.entry(key.clone()).or_insert_with(|| (0, value()));
        *used = self.uses;
        value
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    /// In no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(key, (_, value))| (key, value))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let mut map = Lru::new(2);
        map.get_or_insert_with(&"a", || 1);
        map.get_or_insert_with(&"b", || 2);
        assert_eq!(map.get_mut("a"), Some(&mut 1));
        map.get_or_insert_with(&"c", || 3);
        assert_eq!((map.peek("a"), map.peek("b"), map.peek("c"), map.len()), (Some(&1), None, Some(&3), 2));
        // One that is there makes nobody go.
        *map.get_or_insert_with(&"a", || 9) += 1;
        assert_eq!((map.peek("a"), map.peek("c")), (Some(&2), Some(&3)));
    }
}
