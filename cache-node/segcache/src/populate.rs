//! Pages that are made ready ahead of their use.
//!
//! The first write to a page has the system find one and clear it: some tenths of a millisecond for a huge page, and
//! many milliseconds on a virtual machine whose host has not backed it yet. A thread of the caller's can do that ahead of
//! the cache, which then never waits for it. Nothing but that depends on the thread: without it, or where the system does
//! not know how to (Linux before 5.14), pages come with their first write.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::volume::{HUGE_PAGE, Pages, Region};

/// Ranges that wait for the thread to leave their page, at most: a huge page of the smallest segments, and both ends.
const MOST_WAITING: usize = 34;
/// What an `Arc` has beside its content.
pub(crate) const ARC_COUNTS: usize = 2 * size_of::<usize>();

/// Makes the pages of one cache ready ahead of it, on a thread of the caller's.
///
/// ```
/// use segcache::{Cache, Progress, Settings};
///
/// let settings = Settings { budget: 64 << 20, max_item_size: 1 << 20, eviction: Default::default(), seed: 42 };
/// let mut cache = Cache::new(settings, 1_800_000_000)?;
/// let helper = cache.populator().map(|populator| {
///     std::thread::spawn(move || {
///         loop {
///             match populator.advance() {
///                 Progress::Advanced => {}
///                 // Until `Cache::wants_pages`: whoever calls the cache then unparks this thread.
///                 Progress::Idle => std::thread::park(),
///                 Progress::Ended => return,
///             }
///         }
///     })
/// });
/// assert!(cache.set(b"key", b"value", 0, segcache::Deadline::Never).is_ok());
/// drop(cache);
/// if let Some(helper) = helper {
///     helper.thread().unpark();
///     assert!(helper.join().is_ok());
/// }
/// # Ok::<(), segcache::SettingsError>(())
/// ```
pub struct Populator {
    parts: [Part; 2],
}

/// What [`Populator::advance`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One page more is ready, and there may be more to do.
    Advanced,
    /// There is nothing to do until the cache has used more of its memory.
    Idle,
    /// There will never be anything to do again: the cache is gone, or the system refuses.
    Ended,
}

impl Populator {
    pub(crate) fn new(parts: [Part; 2]) -> Populator {
        Populator { parts }
    }

    /// Makes at most one huge page ready, which takes some milliseconds at most.
    pub fn advance(&self) -> Progress {
        if self.parts.iter().all(|part| Arc::strong_count(&part.frontier) == 1 || part.frontier.is_refused()) {
            return Progress::Ended;
        }
        for Part { pages, frontier } in &self.parts {
            if let Some(range) = frontier.begin() {
                let answer = pages.populate(range.clone());
                frontier.finish(&range);
                if answer.is_err() {
                    frontier.refused.store(true, Ordering::Release);
                }
                return Progress::Advanced;
            }
        }
        Progress::Idle
    }
}

/// The pages of one region, and how far they are wanted.
pub(crate) struct Part {
    pages: Pages,
    frontier: Arc<Frontier>,
}

/// How far a region's pages are wanted and ready, in bytes from its start. The cache's owner and the helping thread share
/// it; neither ever waits for the other.
#[derive(Default)]
struct Frontier {
    /// The thread may make pages ready below this.
    wanted: AtomicUsize,
    /// It has, below this.
    ready: AtomicUsize,
    /// The number, from 1 on, of the huge page that it is at; 0 while it is at none. It says so before it looks once more
    /// whether the page is still wanted, and the owner lowers `wanted` before it looks here: so one of them sees the
    /// other, since both use the order that all threads agree on (`SeqCst`).
    page: AtomicUsize,
    /// The system does not do it.
    refused: AtomicBool,
}

impl Frontier {
    /// What is to be made ready next: at most what is left of one huge page.
    fn begin(&self) -> Option<Range<usize>> {
        let from = self.ready.load(Ordering::SeqCst);
        let page = from / HUGE_PAGE + 1;
        let to = self.wanted.load(Ordering::SeqCst).min(page * HUGE_PAGE);
        if from >= to || self.is_refused() {
            return None;
        }
        self.page.store(page, Ordering::SeqCst);
        if self.wanted.load(Ordering::SeqCst) < to {
            self.page.store(0, Ordering::SeqCst);
            return None;
        }
        Some(from..to)
    }

    fn finish(&self, range: &Range<usize>) {
        // What the owner has meanwhile taken away is not ready: it stands lower already and stays there, or is not wanted.
        if self.ready.compare_exchange(range.start, range.end, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.ready.fetch_min(self.wanted.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        self.page.store(0, Ordering::SeqCst);
    }

    fn is_at(&self, range: &Range<usize>) -> bool {
        match self.page.load(Ordering::SeqCst) {
            0 => false,
            page => range.start < page * HUGE_PAGE && (page - 1) * HUGE_PAGE < range.end,
        }
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }
}

/// A region as its owner has it: its bytes, what of them is to be ready, and what goes back to the system.
pub(crate) struct Memory {
    region: Region,
    frontier: Arc<Frontier>,
    /// What is to go back to the system once the thread has left its page.
    waiting: Vec<Range<usize>>,
}

impl Memory {
    /// The memory that one takes beside its bytes.
    pub(crate) const METADATA: usize =
        MOST_WAITING * size_of::<Range<usize>>() + size_of::<Frontier>() + ARC_COUNTS + Region::METADATA;

    /// Wants the first `wanted` bytes of a region.
    pub(crate) fn new(region: Region, wanted: usize) -> Memory {
        let frontier = Arc::new(Frontier { wanted: AtomicUsize::new(wanted), ..Frontier::default() });
        Memory { region, frontier, waiting: Vec::with_capacity(MOST_WAITING) }
    }

    /// The region itself, to look at what else it can do.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.region.bytes()
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.region.bytes_mut()
    }

    /// As [`Region::prefetch`].
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        self.region.prefetch(at);
    }

    /// What another thread needs to make pages ready; none where the bytes are not of the system.
    pub(crate) fn part(&self) -> Option<Part> {
        Some(Part { pages: self.region.pages()?, frontier: Arc::clone(&self.frontier) })
    }

    /// Wants the first `to` bytes; not while anything waits to go back, since there must not be more of that.
    pub(crate) fn want(&mut self, to: usize) {
        if self.waiting.is_empty() {
            self.frontier.wanted.fetch_max(to, Ordering::SeqCst);
        }
    }

    /// Whether more is wanted than is ready.
    pub(crate) fn is_behind(&self) -> bool {
        let Frontier { wanted, ready, .. } = &*self.frontier;
        ready.load(Ordering::Relaxed) < wanted.load(Ordering::Relaxed) && !self.frontier.is_refused()
    }

    /// Gives bytes back to the system: at once, or, where the thread is at them in this moment, when it has left.
    pub(crate) fn release(&mut self, range: Range<usize>) {
        self.settle();
        self.frontier.wanted.fetch_min(range.start, Ordering::SeqCst);
        self.frontier.ready.fetch_min(range.start, Ordering::SeqCst);
        if self.frontier.is_at(&range) && self.waiting.len() < MOST_WAITING {
            self.waiting.push(range);
        } else {
            self.region.release(range.start, range.len());
        }
    }

    /// The bytes from `start` on are used again: if they still wait to go back, they stay.
    pub(crate) fn keep(&mut self, start: usize) {
        self.waiting.retain(|range| range.start != start);
    }

    /// Gives back what the thread has left.
    pub(crate) fn settle(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Memory { region, frontier, waiting } = self;
        waiting.retain(|range| {
            let stays = frontier.is_at(range);
            if !stays {
                region.release(range.start, range.len());
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Frontier, Memory};
    use crate::volume::{HUGE_PAGE, Region};
    use std::sync::atomic::Ordering;

    fn all(frontier: &Frontier) -> Vec<(usize, usize)> {
        let pages = std::iter::from_fn(|| frontier.begin().inspect(|range| frontier.finish(range)));
        pages.map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn pages_are_made_ready_up_to_what_is_wanted_one_at_a_time() {
        let mut memory = Memory::new(Region::heap(4), HUGE_PAGE + 100);
        assert!(memory.is_behind());
        let frontier = std::sync::Arc::clone(&memory.frontier);
        assert_eq!(all(&frontier), [(0, HUGE_PAGE), (HUGE_PAGE, HUGE_PAGE + 100)]);
        assert!(!memory.is_behind());
        memory.want(HUGE_PAGE);
        assert_eq!(all(&frontier), []);
        memory.want(2 * HUGE_PAGE);
        assert_eq!(all(&frontier), [(HUGE_PAGE + 100, 2 * HUGE_PAGE)]);
    }

    #[test]
    fn what_is_released_under_the_threads_hands_goes_back_when_it_has_left() {
        let mut memory = Memory::new(Region::heap(4), 2 * HUGE_PAGE);
        let frontier = std::sync::Arc::clone(&memory.frontier);
        let range = frontier.begin().unwrap();
        // Another page, and then its own.
        memory.release(HUGE_PAGE..2 * HUGE_PAGE);
        assert!(memory.waiting.is_empty());
        memory.release(4096..8192);
        memory.release(0..4096);
        memory.settle();
        assert_eq!(memory.waiting.len(), 2);
        memory.want(HUGE_PAGE);
        assert_eq!(frontier.wanted.load(Ordering::SeqCst), 0, "nothing is wanted as long as something waits");
        memory.keep(0);
        frontier.finish(&range);
        memory.settle();
        assert!(memory.waiting.is_empty());
        memory.want(HUGE_PAGE);
        assert_eq!(all(&frontier), [(0, HUGE_PAGE)], "the page counts as not ready");
    }
}
