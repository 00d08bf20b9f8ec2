//! A slice that parallel tasks write at places of their own.

use std::marker::PhantomData;

/// Hands out elements and runs of a mutable slice without a borrow of the whole. Who uses it proves that no two tasks touch
/// the same element.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, whose parts may go to other threads when T may; the users of `get` and `run` promise
// that the parts do not overlap.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Of memory that need not be initialised: nobody may read an element before it was written.
    pub fn of_capacity(values: &'a mut Vec<T>, len: usize) -> Self {
        values.reserve(len);
        Self { start: values.spare_capacity_mut().as_mut_ptr().cast(), len, slice: PhantomData }
    }

    /// To element `start`, which has `len - 1` more behind it.
    #[inline]
    pub fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "{len} elements at {start} of {}", self.len);
        // SAFETY: inside the slice.
        unsafe { self.start.add(start) }
    }

    /// Element `index`.
    ///
    /// # Safety
    /// Nobody else may hold a reference to this element at the same time.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self, index: usize) -> &'a mut T {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: inside the slice; the caller promises that nobody else holds it.
        unsafe { &mut *self.start.add(index) }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// Nobody else may hold a reference to any of these elements at the same time.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn run(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{len} elements at {start} of {}", self.len);
        // SAFETY: inside the slice; the caller promises that nobody else holds any of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
