//! The memory that index and segments live in: the only file of this project with unsafe code.
#![expect(unsafe_code, reason = "prefetching and giving pages back to the system have no safe interface")]

use std::io;

use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

/// A fixed range of bytes, zero at first.
///
/// Its pages take no memory until they are written to for the first time.
pub struct Region {
    memory: Memory,
}

enum Memory {
    Heap(Vec<u8>),
    Mapped(Mapped),
}

/// `length` bytes of a mapping from `start` on.
struct Mapped {
    map: MmapMut,
    start: usize,
    length: usize,
    /// Huge pages were asked for; `start` is where one begins.
    is_huge: bool,
}

/// What the system gives and takes memory in, or a multiple of it.
const PAGE: usize = 4096;
/// A huge page: one entry of the processor's translation cache for so many bytes, where the system offers that.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

impl Region {
    /// `length` bytes of anonymous memory of the system; of the heap under miri, which knows no mappings.
    ///
    /// # Errors
    /// The system's, where it does not give that many addresses.
    pub fn anonymous(length: usize) -> io::Result<Region> {
        if cfg!(miri) || length == 0 {
            return Ok(Region::heap(length));
        }
        let map = MmapOptions::new().len(length).no_reserve_swap().map_anon()?;
        Ok(Region { memory: Memory::Mapped(Mapped { map, start: 0, length, is_huge: false }) })
    }

    /// As [`Region::anonymous`], in huge pages of 2 MiB where the system offers them: a write to one byte then makes
    /// all of its huge page take memory.
    ///
    /// # Errors
    /// As [`Region::anonymous`].
    pub fn anonymous_huge(length: usize) -> io::Result<Region> {
        if cfg!(miri) || length < HUGE_PAGE {
            return Region::anonymous(length);
        }
        // Addresses are not memory: some more of them, so that the first byte can be where a huge page begins.
        let map = MmapOptions::new().len(length + HUGE_PAGE).no_reserve_swap().map_anon()?;
        let start = map.as_ptr().addr().wrapping_neg() % HUGE_PAGE;
        // A system that has none refuses, and the region has small pages then.
        let is_huge = map.advise_range(Advice::HugePage, start, length).is_ok();
        Ok(Region { memory: Memory::Mapped(Mapped { map, start, length, is_huge }) })
    }

    /// `length` bytes of the heap.
    #[must_use]
    pub fn heap(length: usize) -> Region {
        Region { memory: Memory::Heap(vec![0; length]) }
    }

    /// All bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(Mapped { map, start, length, .. }) => &map[*start..*start + *length],
        }
    }

    /// All bytes, to be written to.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(Mapped { map, start, length, .. }) => &mut map[*start..*start + *length],
        }
    }

    /// Asks the processor to fetch the cache line at `offset`; outside the region it does nothing.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        if let Some(byte) = self.bytes().get(offset) {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: a prefetch is a hint that neither faults nor changes memory, and the address is that of a byte
            // that the region owns. SSE is part of every x86_64.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                    std::ptr::from_ref(byte).cast::<i8>(),
                );
            }
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            let _: &u8 = byte;
        }
    }

    /// Gives the whole pages within `offset..offset + length` back to the system; what they held may be lost, and they
    /// take no memory until they are written to again. On the heap it does nothing.
    ///
    /// Where only a part of a huge page is given back, that one becomes small pages for good: the system would
    /// otherwise make it whole again some time, and then it would take memory that was given back.
    pub fn release(&mut self, offset: usize, length: usize) {
        let Memory::Mapped(mapped) = &mut self.memory else { return };
        let end = offset.saturating_add(length).min(mapped.length) / PAGE * PAGE;
        let start = offset.next_multiple_of(PAGE);
        if start >= end {
            return;
        }
        mapped.split(start);
        mapped.split(end);
        // SAFETY: the pages lie within the mapping, which is private and anonymous, and `&mut self` proves that no
        // slice of it is borrowed; afterwards they read as zeros, which are valid bytes.
        let answer =
            unsafe { mapped.map.unchecked_advise_range(UncheckedAdvice::DontNeed, mapped.start + start, end - start) };
        // A system that refuses keeps the pages: the budget still holds, since it counts what may be touched.
        drop(answer);
    }
}

impl Mapped {
    /// Has small pages where a huge one would lie on both sides of `at`.
    fn split(&self, at: usize) {
        let first = at / HUGE_PAGE * HUGE_PAGE;
        if self.is_huge && first != at {
            let length = HUGE_PAGE.min(self.length - first);
            // Refused, it costs memory that was given back already, one huge page at most.
            drop(self.map.advise_range(Advice::NoHugePage, self.start + first, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HUGE_PAGE, PAGE, Region};

    #[test]
    fn it_reads_as_zeros_until_it_is_written() {
        for mut region in [Region::heap(3 * PAGE), Region::anonymous(3 * PAGE).unwrap()] {
            assert!(region.bytes().iter().all(|byte| *byte == 0));
            region.bytes_mut()[PAGE] = 7;
            region.prefetch(PAGE);
            region.prefetch(usize::MAX);
            assert_eq!(region.bytes()[PAGE], 7);
        }
    }

    #[test]
    fn huge_pages_begin_with_the_region_and_are_its_bytes() {
        // miri's regions are of the heap, and it counts slowly.
        let length = if cfg!(miri) { PAGE } else { 2 * HUGE_PAGE + PAGE };
        let mut region = Region::anonymous_huge(length).unwrap();
        assert_eq!(region.bytes().len(), length);
        assert!(cfg!(miri) || region.bytes().as_ptr().addr().is_multiple_of(HUGE_PAGE));
        region.bytes_mut().fill(9);
        region.release(HUGE_PAGE - PAGE, 2 * PAGE);
        let zeros = region.bytes().iter().filter(|byte| **byte == 0).count();
        assert_eq!(zeros, if cfg!(miri) { 0 } else { 2 * PAGE });
        assert_eq!(region.bytes()[length - 1], 9);
        region.release(0, usize::MAX);
        region.bytes_mut()[length - 1] = 1;
    }

    #[test]
    fn only_whole_pages_within_the_range_are_released() {
        let mut region = Region::anonymous(4 * PAGE).unwrap();
        region.bytes_mut().fill(9);
        region.release(1, 3 * PAGE - 1);
        assert_eq!(region.bytes()[PAGE - 1], 9);
        assert_eq!(region.bytes()[3 * PAGE], 9);
        region.release(0, usize::MAX);
        region.release(4 * PAGE, PAGE);
    }
}
