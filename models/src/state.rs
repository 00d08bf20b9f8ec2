//! What a model's layers remember of a sequence: the description from which the engine makes its books, and the memory plan its sum.

use kernels::BLOCK_TOKENS;

/// Layers that remember alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerGroup {
    pub layers: usize,
    pub state: LayerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Keys and values of all tokens.
    Full,
    /// Keys and values of the last `window` tokens, the row's own included.
    Sliding { window: usize },
    /// So many bytes in all layers of the group together, however long the sequence is.
    Recurrent { bytes_per_sequence: u64 },
}

/// Of the slots of state a sequence holds at most the one it reads and the one it leaves.
pub const STATE_SLOTS_PER_SEQUENCE: usize = 2;

/// Blocks that a sequence holds at most in a window's layers: those that the rows of a step see and write.
pub fn window_blocks_per_sequence(window: usize, tokens_per_step_max: usize) -> usize {
    // `n` positions in a row touch at most `(n + 62) / 32` blocks of 32, and these are `window - 1 + tokens_per_step_max`.
    window.saturating_add(tokens_per_step_max).saturating_add(2 * BLOCK_TOKENS - 3) / BLOCK_TOKENS
}

/// What one running sequence takes beside the blocks of full attention. `block_bytes`: keys and values of a block in one layer.
pub fn bytes_per_sequence(groups: &[LayerGroup], block_bytes: u64, tokens_per_step_max: usize) -> u64 {
    let bytes_of = |group: &LayerGroup| match group.state {
        LayerState::Full => 0,
        LayerState::Sliding { window } => {
            let blocks = window_blocks_per_sequence(window, tokens_per_step_max) as u64;
            blocks.saturating_mul(block_bytes).saturating_mul(group.layers as u64)
        }
        LayerState::Recurrent { bytes_per_sequence } => bytes_per_sequence.saturating_mul(STATE_SLOTS_PER_SEQUENCE as u64),
    };
    groups.iter().map(bytes_of).fold(0, u64::saturating_add)
}

/// Layers whose keys and values are kept for every token.
pub fn full_layers(groups: &[LayerGroup]) -> usize {
    groups.iter().filter(|group| group.state == LayerState::Full).map(|group| group.layers).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_touches_as_many_blocks_as_its_rows_can() {
        // By hand: every place where the rows of a step can begin.
        for (window, rows) in [(1, 1), (1, 2), (1, 64), (32, 1), (33, 1), (34, 1), (40, 64), (128, 512), (1024, 512), (4096, 7)] {
            let touched = |start: usize| (start + rows - 1) / BLOCK_TOKENS - (start + 1 - window) / BLOCK_TOKENS + 1;
            let most = (window..window + 2 * BLOCK_TOKENS).map(touched).max();
            assert_eq!(Some(window_blocks_per_sequence(window, rows)), most, "{window} {rows}");
        }
    }

    #[test]
    fn groups_add_up() {
        let group = |layers, state| LayerGroup { layers, state };
        let hybrid = [
            group(6, LayerState::Full),
            group(20, LayerState::Sliding { window: 128 }),
            group(18, LayerState::Recurrent { bytes_per_sequence: 5000 }),
        ];
        assert_eq!(full_layers(&hybrid), 6);
        // 128 + 512 - 1 tokens touch 21 blocks.
        assert_eq!(bytes_per_sequence(&hybrid, 1000, 512), 20 * 21 * 1000 + 2 * 5000);
        assert_eq!(bytes_per_sequence(&hybrid[..1], 1000, 512), 0);
        assert_eq!(bytes_per_sequence(&[group(usize::MAX, LayerState::Sliding { window: usize::MAX })], u64::MAX, 512), u64::MAX);
    }
}
