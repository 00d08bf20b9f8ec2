//! Finds stop strings in text that arrives in pieces, and decides how much of it may be shown: a piece that could still become a
//! stop string is held back. One automaton for all strings (Aho and Corasick 1975), one step a byte, however many strings there are.

use std::collections::VecDeque;
use std::sync::Arc;

/// The strings of one request and how far into them the text is; a clone of a fresh one costs nothing.
#[derive(Debug, Clone)]
pub struct StopStrings {
    /// Shared by the clones: the choices of one request.
    nodes: Arc<[Node]>,
    strings: Arc<[String]>,
    state: usize,
    /// Text received and not yet shown: always the last `nodes[state].depth` bytes.
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// This much is certain not to be part of a stop string.
    Text(String),
    /// The text before the stop string; the reply ends here.
    Stopped { text: String, stop: String },
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// By the next byte; few, but for the first node.
    next: Vec<(u8, u32)>,
    /// The node of the longest proper suffix that begins some string.
    fallback: usize,
    depth: usize,
    /// The longest string that ends here.
    ends: Option<usize>,
}

impl Node {
    fn after(&self, byte: u8) -> Option<usize> {
        self.next.iter().find(|(other, _)| *other == byte).map(|(_, node)| *node as usize)
    }
}

impl StopStrings {
    /// Empty strings are ignored.
    pub fn new(strings: &[String]) -> Self {
        let mut nodes = vec![Node::default()];
        for (index, string) in strings.iter().enumerate().filter(|(_, string)| !string.is_empty()) {
            let mut at = 0;
            for byte in string.bytes() {
                at = match nodes[at].after(byte) {
                    Some(node) => node,
                    None => {
                        nodes.push(Node { depth: nodes[at].depth + 1, ..Node::default() });
                        let node = nodes.len() - 1;
                        nodes[at].next.push((byte, node as u32));
                        node
                    }
                };
            }
            nodes[at].ends = Some(index);
        }
        link_fallbacks(&mut nodes);
        Self { nodes: nodes.into(), strings: strings.into(), state: 0, held: String::new() }
    }

    /// Takes the next piece. After `Stopped` nothing more must be pushed.
    pub fn push(&mut self, piece: &str) -> Scan {
        if self.nodes.len() == 1 {
            return Scan::Text(piece.to_owned());
        }
        let held_before = self.held.len();
        self.held.push_str(piece);
        for (offset, byte) in piece.bytes().enumerate() {
            self.state = self.step(byte);
            if let Some(index) = self.nodes[self.state].ends {
                let stop = self.strings[index].clone();
                let end = held_before + offset + 1;
                let text = self.held[..end - stop.len()].to_owned();
                self.held.clear();
                return Scan::Stopped { text, stop };
            }
        }
        // What is held is a prefix of some stop string, so it begins with a whole character, and so does the cut.
        let certain = self.held.len() - self.nodes[self.state].depth;
        let rest = self.held.split_off(certain);
        Scan::Text(std::mem::replace(&mut self.held, rest))
    }

    /// Bytes that may still become a stop string.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// The end of the text: what was held back is no stop string after all.
    pub fn finish(&mut self) -> String {
        self.state = 0;
        std::mem::take(&mut self.held)
    }

    fn step(&self, byte: u8) -> usize {
        let mut state = self.state;
        loop {
            if let Some(next) = self.nodes[state].after(byte) {
                return next;
            }
            if state == 0 {
                return 0;
            }
            state = self.nodes[state].fallback;
        }
    }
}

/// Breadth first, so that a node's fallback (which is shallower) is complete before the node is.
fn link_fallbacks(nodes: &mut [Node]) {
    let mut queue: VecDeque<usize> = nodes[0].next.iter().map(|(_, node)| *node as usize).collect();
    while let Some(node) = queue.pop_front() {
        for (byte, child) in nodes[node].next.clone() {
            let child = child as usize;
            let mut at = nodes[node].fallback;
            let fallback = loop {
                if let Some(next) = nodes[at].after(byte) {
                    break next;
                }
                if at == 0 {
                    break 0;
                }
                at = nodes[at].fallback;
            };
            nodes[child].fallback = fallback;
            if nodes[child].ends.is_none() {
                nodes[child].ends = nodes[fallback].ends;
            }
            queue.push_back(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `pieces`; the shown text and the stop string found.
    fn run(strings: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let strings: Vec<String> = strings.iter().map(|s| s.to_string()).collect();
        let mut stops = StopStrings::new(&strings);
        let mut shown = String::new();
        for piece in pieces {
            match stops.push(piece) {
                Scan::Text(text) => shown.push_str(&text),
                Scan::Stopped { text, stop } => return (shown + &text, Some(stop)),
            }
        }
        (shown + &stops.finish(), None)
    }

    #[test]
    fn a_stop_string_split_over_pieces_is_never_shown() {
        assert_eq!(run(&["STOP"], &["one S", "T", "O", "P two"]), ("one ".into(), Some("STOP".into())));
        assert_eq!(run(&["STOP"], &["one S", "T", "OX"]), ("one STOX".into(), None));
        assert_eq!(run(&["\n\n"], &["a\n", "b\n", "\nc"]), ("a\nb".into(), Some("\n\n".into())));
        assert_eq!(run(&["é!"], &["caf", "é", "é", "!"]), ("café".into(), Some("é!".into())));
    }

    #[test]
    fn a_failed_beginning_falls_back_to_the_next_one() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), Some("aab".into())));
        assert_eq!(run(&["abcd", "bc"], &["ab", "c", "d"]), ("a".into(), Some("bc".into())));
        assert_eq!(run(&["abcx", "bcd"], &["a", "b", "c", "d"]), ("a".into(), Some("bcd".into())));
    }

    #[test]
    fn without_strings_nothing_is_held() {
        let mut stops = StopStrings::new(&[]);
        assert_eq!(stops.push("abc"), Scan::Text("abc".into()));
        let mut stops = StopStrings::new(&["".into()]);
        assert_eq!(stops.push("abc"), Scan::Text("abc".into()));
    }

    /// Against the plain search over the whole text, whatever the pieces.
    #[test]
    fn agrees_with_a_plain_search() {
        use proptest::prelude::*;
        let text = "[abé]{0,24}";
        proptest!(|(text in text, strings in proptest::collection::vec("[abé]{1,4}", 0..5), cut in 1usize..5)| {
            let pieces: Vec<String> = text.chars().collect::<Vec<_>>().chunks(cut).map(|c| c.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            // The first to be complete wins; of several complete at the same place, the longest.
            let plain = (0..=text.len()).filter(|end| text.is_char_boundary(*end)).find_map(|end| {
                strings.iter().filter(|s| text[..end].ends_with(**s)).max_by_key(|s| s.len()).map(|s| (end - s.len(), s.to_string()))
            });
            let expected = match plain {
                Some((start, stop)) => (text[..start].to_owned(), Some(stop)),
                None => (text.clone(), None),
            };
            prop_assert_eq!(run(&strings, &pieces), expected);
        });
    }
}
