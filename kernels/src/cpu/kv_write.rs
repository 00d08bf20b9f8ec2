//! Rows of keys and values into the pages of the CPU's layout: keys transposed inside a page, values as they come.

use super::f32x8::{Element, Kernel, Lanes, run};
use super::isa::Isa;
use super::pool::pool;
use super::shared_slice::SharedSlice;
use crate::BLOCK_TOKENS;

/// Below so many values a second thread costs more than it brings.
const SERIAL_VALUES_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Pages `[kv_heads, head_dim, 32]`.
    Keys,
    /// Pages `[kv_heads, 32, head_dim]`.
    Values,
}

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub part: Part,
    pub kv_heads: usize,
    /// A multiple of 8.
    pub head_dim: usize,
}

/// Writes `rows [slots.len(), kv_heads * head_dim]` into `pages [blocks, page of Shape]`. Panics on a slot beyond the pages.
pub fn write<E: Element>(isa: Isa, pages: &mut [E], rows: &[f32], slots: &[u32], shape: Shape) {
    assert_eq!(rows.len(), slots.len() * shape.kv_heads * shape.head_dim, "one row of keys or values a slot");
    assert!(shape.head_dim.is_multiple_of(8), "head_dim is a multiple of 8");
    let serial = rows.len() <= SERIAL_VALUES_MAX;
    let pages = SharedSlice::new(pages);
    let head = |head: usize| run(isa, WriteHead { pages: &pages, rows, slots, shape, head });
    if serial { (0..shape.kv_heads).for_each(head) } else { pool().run(shape.kv_heads, head) }
}

/// One head of every row: a head's pages are its own, so tasks of different heads never meet, whatever the slots are.
struct WriteHead<'a, E> {
    pages: &'a SharedSlice<'a, E>,
    rows: &'a [f32],
    slots: &'a [u32],
    shape: Shape,
    head: usize,
}

impl<E: Element> Kernel for WriteHead<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Shape { part, kv_heads, head_dim } = self.shape;
        let page_len = BLOCK_TOKENS * head_dim;
        for (row, &slot) in self.rows.chunks_exact(kv_heads * head_dim).zip(self.slots) {
            let (block, offset) = (slot as usize / BLOCK_TOKENS, slot as usize % BLOCK_TOKENS);
            // SAFETY: this task alone writes the pages of its head.
            let page = unsafe { self.pages.run((block * kv_heads + self.head) * page_len, page_len) };
            let row = &row[self.head * head_dim..][..head_dim];
            match part {
                Part::Values => {
                    for (from, to) in row.chunks_exact(8).zip(page[offset * head_dim..].chunks_exact_mut(8)) {
                        // SAFETY: both chunks hold 8 values.
                        unsafe { E::store::<L>(to.as_mut_ptr(), L::load(from.as_ptr())) };
                    }
                }
                Part::Keys => {
                    for (from, to) in row.chunks_exact(8).zip(page.chunks_exact_mut(8 * BLOCK_TOKENS)) {
                        let mut rounded = [E::default(); 8];
                        // SAFETY: `from` and `rounded` hold 8 values.
                        unsafe { E::store::<L>(rounded.as_mut_ptr(), L::load(from.as_ptr())) };
                        for (i, value) in rounded.into_iter().enumerate() {
                            to[i * BLOCK_TOKENS + offset] = value;
                        }
                    }
                }
            }
        }
    }
}
