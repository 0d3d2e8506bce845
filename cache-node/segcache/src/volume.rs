//! The memory that index and segments live in: the only file of this project with unsafe code.
#![expect(unsafe_code, reason = "prefetching and giving pages back to the system have no safe interface")]

use std::io;

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};

/// A fixed range of bytes, zero at first.
///
/// Its pages take no memory until they are written to for the first time.
pub struct Region {
    memory: Memory,
}

enum Memory {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

/// What the system gives and takes memory in, or a multiple of it.
const PAGE: usize = 4096;

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
        Ok(Region { memory: Memory::Mapped(map) })
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
            Memory::Mapped(map) => map,
        }
    }

    /// All bytes, to be written to.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(map) => map,
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
    pub fn release(&mut self, offset: usize, length: usize) {
        let Memory::Mapped(map) = &mut self.memory else { return };
        let end = offset.saturating_add(length).min(map.len()) / PAGE * PAGE;
        let start = offset.next_multiple_of(PAGE);
        if start >= end {
            return;
        }
        // SAFETY: the pages lie within the mapping, which is private and anonymous, and `&mut self` proves that no
        // slice of it is borrowed; afterwards they read as zeros, which are valid bytes.
        let answer = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        // A system that refuses keeps the pages: the budget still holds, since it counts what may be touched.
        drop(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, Region};

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
