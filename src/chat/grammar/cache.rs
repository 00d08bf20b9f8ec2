//! The last so many compiled grammars, found by what they were made of.

/// A hash of the content (BLAKE3: no two contents share one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// Of few entries: they are looked through one by one.
pub struct Cache<T> {
    /// Least recently used first.
    entries: Vec<(Key, T)>,
    entries_max: usize,
}

impl Key {
    pub fn of(parts: &[impl AsRef<str>]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            // With its length, so that parts do not run into each other.
            hasher.update(&(part.as_ref().len() as u64).to_le_bytes());
            hasher.update(part.as_ref().as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl<T: Clone> Cache<T> {
    pub fn new(entries_max: usize) -> Self {
        Self { entries: Vec::new(), entries_max }
    }

    pub fn get(&mut self, key: &Key) -> Option<T> {
        let at = self.entries.iter().position(|(other, _)| other == key)?;
        self.entries[at..].rotate_left(1);
        self.entries.last().map(|(_, value)| value.clone())
    }

    pub fn insert(&mut self, key: Key, value: T) {
        self.entries.retain(|(other, _)| *other != key);
        if self.entries.len() == self.entries_max {
            self.entries.remove(0);
        }
        self.entries.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let key = |name: &str| Key::of(&[name]);
        let mut cache = Cache::new(2);
        cache.insert(key("a"), 1);
        cache.insert(key("b"), 2);
        assert_eq!(cache.get(&key("a")), Some(1));
        cache.insert(key("c"), 3);
        assert_eq!([cache.get(&key("a")), cache.get(&key("b")), cache.get(&key("c"))], [Some(1), None, Some(3)]);
        cache.insert(key("c"), 4);
        assert_eq!([cache.get(&key("a")), cache.get(&key("c"))], [Some(1), Some(4)]);
        assert_ne!(Key::of(&["ab", "c"]), Key::of(&["a", "bc"]));
    }
}
