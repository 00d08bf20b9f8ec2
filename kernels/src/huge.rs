//! Anonymous memory on pages of a chosen size, for data that is written once and read again and again: weights, and the buffers
//! that bandwidth is measured on.
//!
//! A pass over a gigabyte of ordinary pages of 4 KiB misses the translation cache once a page; huge pages of 2 MiB spare most of
//! that and let the hardware's prefetchers run on. The system gives them where it can; [`PageBuffer::huge_bytes`] says how many came.

use std::io;

use memmap2::{MmapMut, MmapOptions};

/// Where huge pages start and how long they are on x86-64 and on Arm with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What is asked of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageSize {
    /// The system's ordinary pages, 4 KiB on most; that is also what a mapped file is seen through.
    Ordinary,
    /// Transparent huge pages (`MADV_HUGEPAGE`), where the system has them.
    Huge,
}

/// Bytes on pages of their own, zero at first.
#[derive(Debug)]
pub struct PageBuffer {
    map: MmapMut,
    /// So that the first byte lies at the start of a huge page.
    start: usize,
    len: usize,
}

impl PageBuffer {
    /// `len` bytes, aligned to 2 MiB. No page is taken before it is written. Errors: the address space is not to be had; that the
    /// system has no huge pages is none.
    pub fn new(len: usize, pages: PageSize) -> io::Result<Self> {
        let too_long = || io::Error::new(io::ErrorKind::OutOfMemory, format!("{len} bytes are beyond any address space"));
        let map = MmapOptions::new().len(len.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_long)?).map_anon()?;
        let start = map.as_ptr().align_offset(HUGE_PAGE_BYTES);
        #[cfg(target_os = "linux")]
        {
            let advice = match pages {
                PageSize::Ordinary => memmap2::Advice::NoHugePage,
                PageSize::Huge => memmap2::Advice::HugePage,
            };
            // Refused by a kernel that was built without them: then all pages are ordinary ones.
            let _ = map.advise(advice);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
        Ok(Self { map, start, len })
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }

    /// How many of the bytes lie on huge pages now, by the system's own books (`AnonHugePages` in `/proc/self/smaps`); 0 where it
    /// keeps none.
    pub fn huge_bytes(&self) -> u64 {
        let address = self.as_ref().as_ptr() as usize;
        let books = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        // What follows the mapping could be ours as well: the kernel makes one of neighbours that are alike.
        huge_bytes_at(&books, address).min(self.len as u64)
    }
}

impl AsRef<[u8]> for PageBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }
}

/// `AnonHugePages` of the mapping that holds `address`.
fn huge_bytes_at(smaps: &str, address: usize) -> u64 {
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((from, to)) = range
            && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
        {
            inside = (from..to).contains(&address);
        } else if inside && let Some(rest) = line.strip_prefix("AnonHugePages:") {
            let kilobytes: u64 = rest.trim().strip_suffix("kB").and_then(|number| number.trim().parse().ok()).unwrap_or(0);
            return kilobytes * 1024;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zero_and_as_long_as_asked() {
        for pages in [PageSize::Ordinary, PageSize::Huge] {
            for len in [0, 1, 4096, (4 << 20) + 3] {
                let mut buffer = PageBuffer::new(len, pages).expect("memory");
                assert!(buffer.as_ref().len() == len && buffer.as_ref().iter().all(|byte| *byte == 0));
                assert_eq!(buffer.as_ref().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
                buffer.as_mut_slice().fill(7);
                assert!(buffer.as_ref().iter().all(|byte| *byte == 7));
            }
        }
        assert!(PageBuffer::new(usize::MAX - 1, PageSize::Huge).is_err());
    }

    #[test]
    fn ordinary_pages_are_not_huge() {
        let mut buffer = PageBuffer::new(8 << 20, PageSize::Ordinary).expect("memory");
        buffer.as_mut_slice().fill(1);
        assert_eq!(buffer.huge_bytes(), 0);
        let mut buffer = PageBuffer::new(8 << 20, PageSize::Huge).expect("memory");
        buffer.as_mut_slice().fill(1);
        // How many came is the system's affair; never more than there are.
        assert!(buffer.huge_bytes() <= 8 << 20);
    }

    #[test]
    fn the_books_are_read_by_address() {
        let books = "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \nSize:  4096 kB\nAnonHugePages:      2048 kB\nVmFlags: rd wr hg \n\
                     7f0000400000-7f0000600000 rw-p 00000000 00:00 0 \nSize:  2048 kB\nAnonHugePages:         0 kB\n";
        assert_eq!(huge_bytes_at(books, 0x7f00_0030_0000), 2 << 20);
        assert_eq!(huge_bytes_at(books, 0x7f00_0040_0000), 0);
        assert_eq!(huge_bytes_at(books, 0x1000), 0);
    }
}
