//! A slice of which the tasks of one parallel region write different parts.

use std::marker::PhantomData;

/// Hands out parts of a mutable slice to several threads; the bounds are checked, the disjointness is the caller's promise.
#[derive(Debug)]
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]` whose parts go to different threads, which is sound for `T: Send`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The part `start .. start + len`. Panics when it is out of bounds.
    ///
    /// # Safety
    /// While the part lives, no other part that overlaps it may be in use.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start} + {len} of {}", self.len);
        // SAFETY: in bounds by the check above; exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
