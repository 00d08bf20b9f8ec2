//! From the hidden states of a text's tokens to one vector.

/// Which of them make the vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
    /// The largest of each column.
    Max,
}

impl Pooling {
    /// llama.cpp's number for it, in a GGUF's `pooling_type`; `None`: no pooling (0), or a way that is none of these.
    pub fn of_gguf(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Mean),
            2 => Some(Self::First),
            3 => Some(Self::Last),
            _ => None,
        }
    }

    /// Of `states`, one row of `width` a token, at least one. Sums are in f64, so that a long text loses nothing.
    pub fn pool(self, states: &[f32], width: usize) -> Vec<f32> {
        let rows = states.len() / width;
        assert!(rows > 0 && states.len() == rows * width, "{} numbers are no rows of {width}", states.len());
        match self {
            Self::First => states[..width].to_vec(),
            Self::Last => states[(rows - 1) * width..].to_vec(),
            Self::Mean => {
                let mut sums = vec![0.0f64; width];
                for row in states.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, state)| *sum += f64::from(*state));
                }
                sums.into_iter().map(|sum| (sum / rows as f64) as f32).collect()
            }
            Self::Max => {
                let mut largest = states[..width].to_vec();
                for row in states.chunks_exact(width).skip(1) {
                    largest.iter_mut().zip(row).for_each(|(largest, state)| *largest = largest.max(*state));
                }
                largest
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_pooling() {
        let states = [1.0, -2.0, 3.0, -4.0, 8.0, 3.0];
        assert_eq!(Pooling::Mean.pool(&states, 2), [4.0, -1.0]);
        assert_eq!(Pooling::First.pool(&states, 2), [1.0, -2.0]);
        assert_eq!(Pooling::Last.pool(&states, 2), [8.0, 3.0]);
        assert_eq!(Pooling::Max.pool(&states, 2), [8.0, 3.0]);
        assert_eq!(Pooling::Max.pool(&states[..4], 2), [3.0, -2.0]);
    }
}
