//! Rows of keys and values into the pages of the CPU's layout, each number rounded once, here.

use super::f32x8::{Kernel, Lanes, run};
use super::isa::Isa;
use super::page::Format;
use super::pool::pool;
use super::shared_slice::SharedSlice;
use crate::BLOCK_TOKENS;

/// Below so many values a second thread costs more than it brings.
const SERIAL_VALUES_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Keys,
    Values,
}

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub part: Part,
    pub kv_heads: usize,
    /// A multiple of [`Format::HEAD_DIM_MULTIPLE`].
    pub head_dim: usize,
}

/// Writes `rows [slots.len(), kv_heads * head_dim]` into `pages [blocks, kv_heads, page]`. Panics on a slot beyond the pages.
pub fn write<F: Format>(isa: Isa, pages: &mut [F::Unit], rows: &[f32], slots: &[u32], shape: Shape) {
    assert_eq!(rows.len(), slots.len() * shape.kv_heads * shape.head_dim, "one row of keys or values a slot");
    assert!(shape.head_dim.is_multiple_of(F::HEAD_DIM_MULTIPLE), "head_dim is a multiple of {}", F::HEAD_DIM_MULTIPLE);
    let serial = rows.len() <= SERIAL_VALUES_MAX;
    let pages = SharedSlice::new(pages);
    let head = |head: usize| run(isa, WriteHead::<F> { pages: &pages, rows, slots, shape, head });
    if serial { (0..shape.kv_heads).for_each(head) } else { pool().run(shape.kv_heads, head) }
}

/// One head of every row: a head's pages are its own, so tasks of different heads never meet, whatever the slots are.
struct WriteHead<'a, F: Format> {
    pages: &'a SharedSlice<'a, F::Unit>,
    rows: &'a [f32],
    slots: &'a [u32],
    shape: Shape,
    head: usize,
}

impl<F: Format> Kernel for WriteHead<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Shape { part, kv_heads, head_dim } = self.shape;
        let page_len = F::page_len(head_dim);
        for (row, &slot) in self.rows.chunks_exact(kv_heads * head_dim).zip(self.slots) {
            let (block, token) = (slot as usize / BLOCK_TOKENS, slot as usize % BLOCK_TOKENS);
            // SAFETY: this task alone writes the pages of its head.
            let page = unsafe { self.pages.run((block * kv_heads + self.head) * page_len, page_len) };
            let row = &row[self.head * head_dim..][..head_dim];
            match part {
                Part::Values => F::write_value::<L>(page, token, row),
                Part::Keys => F::write_key::<L>(page, token, row),
            }
        }
    }
}
