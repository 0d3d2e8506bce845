//! The memory that index and segments live in: the only file of this project with unsafe code.
#![expect(
    unsafe_code,
    reason = "mapping files, prefetching and giving pages back to the system have no safe interface"
)]

#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::asm;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::sync::OnceLock;

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use signal_hook::SigId;
use signal_hook::consts::SIGBUS;

use crate::populate::ARC_COUNTS;

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

/// `length` bytes of a mapping from `start` on. Only the region reads and writes them; who else has the mapping
/// ([`Pages`]) has pages made ready, which changes no byte.
struct Mapped {
    map: Arc<MmapRaw>,
    start: usize,
    length: usize,
    /// Huge pages were asked for; `start` is where one begins.
    is_huge: bool,
    file: Option<File>,
    /// A write to it is durable as soon as the processor has written its cache lines back (`MAP_SYNC`).
    is_synchronous: bool,
}

/// The pages of a mapped region, to be made ready for writing by another thread than its owner's. They stay mapped as
/// long as this lives.
pub(crate) struct Pages {
    map: Arc<MmapRaw>,
    start: usize,
    length: usize,
}

impl Pages {
    /// Has the system find the pages of these bytes of the region, as far as it has them, as if they were written to.
    ///
    /// # Errors
    /// The system's, where it does not know how to or has no memory.
    pub(crate) fn populate(&self, bytes: Range<usize>) -> io::Result<()> {
        let (from, to) = (bytes.start / PAGE * PAGE, bytes.end.min(self.length));
        if from >= to {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        return self.map.advise_range(Advice::PopulateWrite, self.start + from, to - from);
        #[cfg(not(target_os = "linux"))]
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What the system gives and takes memory in, or a multiple of it.
const PAGE: usize = 4096;
/// A huge page: one entry of the processor's translation cache for so many bytes, where the system offers that.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

impl Region {
    /// The memory that one takes beside its bytes.
    pub(crate) const METADATA: usize = size_of::<MmapRaw>() + ARC_COUNTS;

    /// `length` bytes of anonymous memory of the system; of the heap under miri, which knows no mappings.
    ///
    /// # Errors
    /// The system's, where it does not give that many addresses.
    pub fn anonymous(length: usize) -> io::Result<Region> {
        if cfg!(miri) || length == 0 {
            return Ok(Region::heap(length));
        }
        let map = MmapOptions::new().len(length).no_reserve_swap().map_anon()?;
        Ok(Region::mapped(map, 0, length, false))
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
        Ok(Region::mapped(map, start, length, is_huge))
    }

    fn mapped(map: MmapMut, start: usize, length: usize, is_huge: bool) -> Region {
        // What the slices of `bytes` rest on.
        assert!(start + length <= map.len(), "a region lies within its mapping");
        Region {
            memory: Memory::Mapped(Mapped {
                map: Arc::new(map.into()),
                start,
                length,
                is_huge,
                file: None,
                is_synchronous: false,
            }),
        }
    }

    /// `length` bytes of the heap.
    #[must_use]
    pub fn heap(length: usize) -> Region {
        Region { memory: Memory::Heap(vec![0; length]) }
    }

    /// The first `length` bytes of a file that is at least as long. What is written to them is in the file, and outlives
    /// the process; how to outlive the machine is [`Region::persist`]'s matter.
    ///
    /// # Errors
    /// The system's, where the file cannot be mapped.
    pub fn file(file: File, length: usize) -> io::Result<Region> {
        let map = Arc::new(MmapOptions::new().len(length).map_raw(&file)?);
        Ok(Region {
            memory: Memory::Mapped(Mapped {
                map,
                start: 0,
                length,
                is_huge: false,
                file: Some(file),
                is_synchronous: false,
            }),
        })
    }

    /// Asks for a mapping in which the file's metadata is as durable as what is written to the bytes (`MAP_SYNC`), so that
    /// on persistent memory no system call is needed to make a write durable; says whether the system grants it.
    pub fn synchronize(&mut self) -> bool {
        let Memory::Mapped(Mapped { map, length, file: Some(file), is_synchronous, .. }) = &mut self.memory else {
            return false;
        };
        let flags = MapFlags::SHARED_VALIDATE | MapFlags::SYNC;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: at an address of the system's choice, where it is in nobody's way; unmapped at once, and never read.
        let probe = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, protection, flags, &*file, 0) };
        let Ok(probe) = probe else { return false };
        // SAFETY: this is exactly the mapping that was made a moment ago, of which nothing has a reference.
        let unmapped = unsafe { rustix::mm::munmap(probe, PAGE) };
        if unmapped.is_err() {
            return false;
        }
        let address = map.as_mut_ptr().cast();
        // SAFETY: the same bytes of the same file take the place of themselves, at addresses that `map` owns and will
        // unmap; `&mut self` proves that no slice of them is borrowed.
        let mapped = unsafe { rustix::mm::mmap(address, *length, protection, flags | MapFlags::FIXED, &*file, 0) };
        *is_synchronous = mapped.is_ok();
        *is_synchronous
    }

    /// Whether [`Region::write_back`] makes writes durable here.
    #[must_use]
    pub fn is_synchronous(&self) -> bool {
        matches!(self.memory, Memory::Mapped(Mapped { is_synchronous: true, .. })) && cfg!(target_arch = "x86_64")
    }

    /// Has the processor write the cache lines of these bytes back, and waits until it has.
    pub fn write_back(&self, ranges: &[Range<usize>]) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let instruction = WriteBack::of_this_processor();
            for range in ranges {
                let bytes = self.bytes().get(range.clone()).unwrap_or_default();
                // The first line begins before the bytes, but within the page that they are on.
                let before = bytes.as_ptr().addr() % LINE;
                (0..before + bytes.len()).step_by(LINE).for_each(|at| {
                    instruction.write_back(bytes.as_ptr().wrapping_sub(before).wrapping_add(at));
                });
            }
            // SAFETY: a fence changes no memory, and SSE is part of every x86_64.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _: &[Range<usize>] = ranges;
    }

    /// Takes memory, or room on the disk, for a range of a file, so that no later write to it can fail for want of it.
    ///
    /// # Errors
    /// The system's: there is not so much left.
    pub fn preallocate(&self, offset: usize, length: usize) -> io::Result<()> {
        match &self.memory {
            Memory::Mapped(Mapped { file: Some(file), .. }) if length > 0 => {
                match rustix::fs::fallocate(file, FallocateFlags::empty(), offset as u64, length as u64) {
                    // A file system that cannot promise room says so; if it runs out of it, `end_on_bus_error` sees to it.
                    Err(Errno::OPNOTSUPP) | Ok(()) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Waits until what was written to a file would outlive the machine.
    ///
    /// # Errors
    /// The system's: the file may then hold anything.
    pub fn persist(&self) -> io::Result<()> {
        match &self.memory {
            Memory::Mapped(Mapped { file: Some(file), .. }) => file.sync_data(),
            _ => Ok(()),
        }
    }

    /// All bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => bytes,
            // SAFETY: the bytes lie within the mapping, which is initialised (zeros, or a file's content) and lives as long
            // as `self`. Only `bytes_mut` and `release` change them, which borrow `self` alone: the mapping is private, or
            // it is of a file whose lock its owner holds, and everyone of this project takes that lock first. A file that
            // is cut short under it raises SIGBUS, which `end_on_bus_error` turns into the end of the process.
            Memory::Mapped(Mapped { map, start, length, .. }) => unsafe {
                std::slice::from_raw_parts(map.as_ptr().add(*start), *length)
            },
        }
    }

    /// All bytes, to be written to.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(bytes) => bytes,
            // SAFETY: as in `bytes`; and `&mut self` proves that no other slice of them is borrowed, since nobody but the
            // region makes any.
            Memory::Mapped(Mapped { map, start, length, .. }) => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().add(*start), *length)
            },
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

    /// Its pages, for another thread to make them ready; none on the heap or in a file.
    pub(crate) fn pages(&self) -> Option<Pages> {
        match &self.memory {
            // A file's pages are its owner's alone: they must not stay mapped when another process has the lock.
            Memory::Heap(_) | Memory::Mapped(Mapped { file: Some(_), .. }) => None,
            Memory::Mapped(Mapped { map, start, length, .. }) => {
                Some(Pages { map: Arc::clone(map), start: *start, length: *length })
            }
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
        if let Some(file) = &mapped.file {
            // As below: refused, the pages are kept. Safe, since a hole reads as zeros and nothing is borrowed.
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _: Option<()> = rustix::fs::fallocate(file, hole, start as u64, (end - start) as u64).ok();
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

/// What a processor holds and writes back at once.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// How the processor writes a cache line back, from the best to the one that all have.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[derive(Clone, Copy)]
enum WriteBack {
    /// And keeps it.
    Line,
    /// And drops it.
    Drop,
    /// And drops it, one line after the other.
    DropInOrder,
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl WriteBack {
    fn of_this_processor() -> WriteBack {
        static FOUND: OnceLock<WriteBack> = OnceLock::new();
        *FOUND.get_or_init(|| {
            // Structured extended features: bit 24 is CLWB, bit 23 CLFLUSHOPT.
            let features = std::arch::x86_64::__cpuid_count(7, 0).ebx;
            match (features >> 24 & 1, features >> 23 & 1) {
                (1, _) => WriteBack::Line,
                (_, 1) => WriteBack::Drop,
                _ => WriteBack::DropInOrder,
            }
        })
    }

    /// `line` is an address on a page of the region.
    fn write_back(self, line: *const u8) {
        match self {
            // SAFETY: the processor has said that it knows the instruction, which changes no byte and faults no more than
            // a read of the line; and the line is on a page of the region.
            WriteBack::Line => unsafe { asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)) },
            // SAFETY: as above.
            WriteBack::Drop => unsafe { asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags)) },
            // SAFETY: as above; every x86_64 knows it.
            WriteBack::DropInOrder => unsafe { std::arch::x86_64::_mm_clflush(line) },
        }
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

/// As long as this lives, a mapped file that fails ends the process.
pub(crate) struct BusErrorGuard(SigId);

impl Drop for BusErrorGuard {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.0);
    }
}

/// From now on the process ends when a mapped file cannot be read or written (SIGBUS): the disk has failed, the file was
/// cut short, or memory for it has run out. Before that, `mark` is written to the start of the file `marked`, so that the
/// next process knows, and `message` to the standard error.
///
/// # Errors
/// The system's, where it takes no handler.
pub(crate) fn end_on_bus_error(marked: File, mark: &'static [u8], volume: &Path) -> io::Result<BusErrorGuard> {
    let message = format!(
        "{}: the system cannot read or write the volume any more (SIGBUS); it is marked, and the next start is cold\n",
        volume.display()
    );
    let action = move || {
        // There is nobody to tell of an error but by these two.
        let _: Option<usize> = rustix::io::pwrite(&marked, mark, 0).ok();
        let _: Option<usize> = rustix::io::write(rustix::stdio::stderr(), message.as_bytes()).ok();
        signal_hook::low_level::exit(BUS_ERROR)
    };
    // SAFETY: the handler makes three system calls on what was prepared before. It takes no lock, allocates nothing, does
    // not unwind, and does not return to the access that failed.
    unsafe { signal_hook::low_level::register(SIGBUS, action) }.map(BusErrorGuard)
}

/// The status with which a process ends whose volume has failed: sysexits' EX_IOERR.
const BUS_ERROR: i32 = 74;

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
    #[cfg_attr(miri, ignore = "miri's regions are of the heap")]
    fn pages_that_are_made_ready_keep_what_is_in_them() {
        let mut region = Region::anonymous_huge(2 * HUGE_PAGE).unwrap();
        region.bytes_mut()[5 * PAGE] = 7;
        let pages = region.pages().unwrap();
        let helper = std::thread::spawn(move || pages.populate(PAGE + 1..usize::MAX).and(pages.populate(PAGE..PAGE)));
        region.bytes_mut()[HUGE_PAGE] = 8;
        helper.join().unwrap().unwrap();
        assert_eq!((region.bytes()[5 * PAGE], region.bytes()[HUGE_PAGE]), (7, 8));
        assert!(Region::heap(PAGE).pages().is_none());
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
