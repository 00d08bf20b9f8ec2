//! An embedding model whose vectors say what it was given: `[tokens, first id, last id, sum of ids]`. It waits while it is told to, and fails
//! or panics on the words `FAIL` and `PANIC`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use models::embedding::{Embedder, EmbeddingError, Pause, Sequence};

pub const WIDTH: usize = 4;

pub struct FakeEmbedder {
    pub vocab: usize,
    /// While it is set no text is finished.
    pub held: Arc<AtomicBool>,
}

impl Embedder for FakeEmbedder {
    fn width(&self) -> usize {
        WIDTH
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn embed(&mut self, sequences: &[Sequence], pause: &mut Pause<'_>) -> Result<Vec<Vec<f32>>, EmbeddingError> {
        let mut vectors = Vec::new();
        for Sequence { ids, .. } in sequences {
            loop {
                if pause().is_break() {
                    return Err(EmbeddingError::Interrupted);
                }
                if !self.held.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // Token ids below 256 are bytes.
            let says = |word: &[u8]| ids.windows(word.len()).any(|ids| ids.iter().zip(word).all(|(id, byte)| *id == u32::from(*byte)));
            assert!(!says(b"PANIC"), "the text says so");
            if says(b"FAIL") {
                return Err(EmbeddingError::Text("the text says so\nand a backtrace".to_owned()));
            }
            vectors.push(vec![ids.len() as f32, ids[0] as f32, ids[ids.len() - 1] as f32, ids.iter().sum::<u32>() as f32]);
        }
        Ok(vectors)
    }
}
