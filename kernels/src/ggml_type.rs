//! Every tensor type of the GGUF format: its number, name and block size, also for types that are not computed here.
//!
//! A file is read and checked by these sizes; whether a tensor can be computed is asked later, of that tensor alone.
//! Knows no block contents: those are in `blocks`.

/// A ggml tensor type. The numbers are the format's own (`enum ggml_type`); the names in [`GgmlType::name`] are ggml's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    /// Removed from the format in 2023; old files name it.
    Q4_2,
    /// Removed from the format in 2023; old files name it.
    Q4_3,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ2XXS,
    IQ2XS,
    IQ3XXS,
    IQ1S,
    IQ4NL,
    IQ3S,
    IQ2S,
    IQ4XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1M,
    BF16,
    /// Q4_0 interleaved for NEON; removed from files in 2024.
    Q4_0x4x4,
    /// Q4_0 interleaved for NEON i8mm; removed from files in 2024.
    Q4_0x4x8,
    /// Q4_0 interleaved for SVE; removed from files in 2024.
    Q4_0x8x8,
    TQ1_0,
    TQ2_0,
    /// IQ4_NL interleaved for NEON; removed from files in 2024.
    IQ4NLx4x4,
    /// IQ4_NL interleaved for NEON i8mm; removed from files in 2024.
    IQ4NLx4x8,
    /// IQ4_NL interleaved for SVE; removed from files in 2024.
    IQ4NLx8x8,
    MXFP4,
    NVFP4,
    Q1_0,
}

/// One line of the table below: number in the file, name, weights a block, bytes a block.
type Row = (GgmlType, u32, &'static str, usize, usize);

/// In ascending order of number. K and IQ types hold 256 weights a block.
const TABLE: &[Row] = {
    use GgmlType::*;
    &[
        (F32, 0, "F32", 1, 4),
        (F16, 1, "F16", 1, 2),
        (Q4_0, 2, "Q4_0", 32, 18),
        (Q4_1, 3, "Q4_1", 32, 20),
        (Q4_2, 4, "Q4_2", 16, 10),
        (Q4_3, 5, "Q4_3", 16, 12),
        (Q5_0, 6, "Q5_0", 32, 22),
        (Q5_1, 7, "Q5_1", 32, 24),
        (Q8_0, 8, "Q8_0", 32, 34),
        (Q8_1, 9, "Q8_1", 32, 36),
        (Q2K, 10, "Q2_K", 256, 84),
        (Q3K, 11, "Q3_K", 256, 110),
        (Q4K, 12, "Q4_K", 256, 144),
        (Q5K, 13, "Q5_K", 256, 176),
        (Q6K, 14, "Q6_K", 256, 210),
        (Q8K, 15, "Q8_K", 256, 292),
        (IQ2XXS, 16, "IQ2_XXS", 256, 66),
        (IQ2XS, 17, "IQ2_XS", 256, 74),
        (IQ3XXS, 18, "IQ3_XXS", 256, 98),
        (IQ1S, 19, "IQ1_S", 256, 50),
        (IQ4NL, 20, "IQ4_NL", 32, 18),
        (IQ3S, 21, "IQ3_S", 256, 110),
        (IQ2S, 22, "IQ2_S", 256, 82),
        (IQ4XS, 23, "IQ4_XS", 256, 136),
        (I8, 24, "I8", 1, 1),
        (I16, 25, "I16", 1, 2),
        (I32, 26, "I32", 1, 4),
        (I64, 27, "I64", 1, 8),
        (F64, 28, "F64", 1, 8),
        (IQ1M, 29, "IQ1_M", 256, 56),
        (BF16, 30, "BF16", 1, 2),
        (Q4_0x4x4, 31, "Q4_0_4_4", 32, 18),
        (Q4_0x4x8, 32, "Q4_0_4_8", 32, 18),
        (Q4_0x8x8, 33, "Q4_0_8_8", 32, 18),
        (TQ1_0, 34, "TQ1_0", 256, 54),
        (TQ2_0, 35, "TQ2_0", 256, 66),
        (IQ4NLx4x4, 36, "IQ4_NL_4_4", 32, 18),
        (IQ4NLx4x8, 37, "IQ4_NL_4_8", 32, 18),
        (IQ4NLx8x8, 38, "IQ4_NL_8_8", 32, 18),
        (MXFP4, 39, "MXFP4", 32, 17),
        (NVFP4, 40, "NVFP4", 64, 36),
        (Q1_0, 41, "Q1_0", 128, 18),
    ]
};

impl GgmlType {
    /// The type with this number in a GGUF file; `None` for a number the format has not given out (as of November 2026).
    pub fn from_number(number: u32) -> Option<Self> {
        TABLE.get(usize::try_from(number).ok()?).map(|row| row.0)
    }

    /// Its number in a GGUF file.
    pub fn number(self) -> u32 {
        self.row().1
    }

    /// ggml's name, as people write it: `Q4_K`, `IQ4_XS`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Weights in one block; a row of a tensor holds a whole number of blocks.
    pub const fn block_size(self) -> usize {
        self.row().3
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of a row of `cols` weights; `None` where `cols` is not a whole number of blocks or the product overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_size()) {
            return None;
        }
        (cols / self.block_size()).checked_mul(self.block_bytes())
    }

    /// Whether matrix products with weights of this type are built in.
    pub fn is_computed(self) -> bool {
        Self::COMPUTED.contains(&self)
    }

    /// The types matrix products exist for.
    pub const COMPUTED: [Self; 25] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4NL,
        Self::IQ4XS,
        Self::MXFP4,
        Self::IQ3S,
        Self::IQ3XXS,
        Self::IQ2S,
        Self::IQ2XS,
        Self::IQ2XXS,
        Self::IQ1M,
        Self::IQ1S,
        Self::TQ1_0,
        Self::TQ2_0,
    ];

    /// All types of the format.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    const fn row(self) -> &'static Row {
        // The variants are declared in the order of the table, which a test checks.
        &TABLE[self as usize]
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_numbers_and_of_the_variants() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index);
            assert_eq!(row.1 as usize, index);
            assert_eq!(GgmlType::from_number(row.1), Some(row.0));
        }
        assert_eq!(GgmlType::from_number(TABLE.len() as u32), None);
        assert_eq!(GgmlType::from_number(u32::MAX), None);
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(GgmlType::Q4K.row_bytes(512), Some(288));
        assert_eq!(GgmlType::Q4K.row_bytes(500), None);
        assert_eq!(GgmlType::F32.row_bytes(usize::MAX / 2), None);
        assert_eq!(GgmlType::Q8_0.row_bytes(0), Some(0));
    }
}
