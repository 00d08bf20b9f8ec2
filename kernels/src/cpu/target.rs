//! Where the outputs of a block go, and what happens to them on the way there: bias, residual.

use super::product::Block;
use super::shared_slice::SharedSlice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// `out = product + bias`.
    Set,
    /// `out += product + bias`: the bias first, then one addition.
    Add,
}

/// The outputs of one block, in memory whose rows may be longer than the block's.
pub(crate) struct Target<'a> {
    /// Of the block's first row and column; a row's outputs lie one after the other.
    start: *mut f32,
    /// From one row to the next.
    stride: usize,
    rows: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
    write: Write,
}

impl<'a> Target<'a> {
    /// `block` of outputs that lie in `out` in rows of `stride`, the block's first row at row `row` of it, its columns where they are in
    /// the weight. What [`Write::Set`] meets need not be initialised. `bias` is that of all columns of the weight.
    ///
    /// # Safety
    /// While this lives nobody else reads or writes these outputs; for [`Write::Add`] they are initialised.
    pub unsafe fn new(out: &SharedSlice<'a, f32>, stride: usize, row: usize, block: &Block, bias: Option<&'a [f32]>, write: Write) -> Self {
        let (rows, columns) = (block.rows.len(), &block.columns);
        assert!(columns.end <= stride, "columns beyond a row");
        let start = out.pointer(row * stride + columns.start, (rows.max(1) - 1) * stride + columns.len());
        Self { start, stride, rows, columns: columns.len(), bias: bias.map(|bias| &bias[columns.clone()]), write }
    }

    /// Rows of `block.stride()`, one after the other, and nothing added.
    pub fn scratch(out: &'a mut [f32], block: &Block) -> Self {
        let (rows, stride) = (block.rows.len(), block.stride());
        assert!(out.len() >= rows * stride, "room for all");
        Self { start: out.as_mut_ptr(), stride, rows, columns: block.columns.len(), bias: None, write: Write::Set }
    }

    /// Eight outputs from `column` on of the eight rows from `row` on. Panics where the block has not that many.
    pub fn square(&self, row: usize, column: usize) -> Square {
        assert!(row + 8 <= self.rows && column + 8 <= self.columns, "eight rows and columns");
        // SAFETY: inside the block.
        let to = unsafe { self.start.add(row * self.stride + column) };
        Square { to, stride: self.stride, bias: self.bias.map(|bias| bias[column..].as_ptr()), write: self.write }
    }

    /// One output.
    pub fn put(&mut self, row: usize, column: usize, value: f32) {
        assert!(row < self.rows && column < self.columns, "an output of the block");
        let value = self.bias.map_or(value, |bias| value + bias[column]);
        // SAFETY: inside the block, whose outputs are this target's alone; initialised where they are read (`new`'s contract).
        unsafe {
            let to = self.start.add(row * self.stride + column);
            *to = if self.write == Write::Add { *to + value } else { value };
        }
    }

    /// All outputs of a row.
    pub fn put_row(&mut self, row: usize, values: &[f32]) {
        values[..self.columns].iter().enumerate().for_each(|(column, value)| self.put(row, column, *value));
    }
}

/// Eight outputs of eight rows.
pub(crate) struct Square {
    pub to: *mut f32,
    pub stride: usize,
    /// Of the eight columns.
    pub bias: Option<*const f32>,
    pub write: Write,
}
