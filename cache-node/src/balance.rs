//! Sessions move from a worker that is overloaded to one that is not.
//!
//! The listener hands over by the number of connections, which says little where a few of them do all the work. So each
//! worker measures how much of its time it is busy, and one that is far busier than another hands over some of the
//! sessions that keep it so, each between two requests.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use mio::Waker;
use tracing::warn;

use crate::clock::Instant;
use crate::connections::Listed;
use crate::metrics::Counters;
use crate::transport::Transport;

/// A worker that is busy for less than this, in thousandths, is not overloaded.
const OVERLOADED: u64 = 600;
/// How much busier, in thousandths, a worker must be than the one that it hands over to.
const GAP: u64 = 300;
/// Sessions that a worker hands over in a second.
pub const MOST_MOVES: usize = 16;

/// What moves: all there is of a session between two requests.
#[derive(Debug)]
pub struct Moved {
    /// Its byte stream.
    pub transport: Transport,
    /// Its place in the list of connections.
    pub listed: Listed,
}

/// Another worker as this one knows it.
#[derive(Debug)]
struct Peer {
    queue: SyncSender<Moved>,
    waker: Arc<Waker>,
    counters: Arc<Counters>,
}

/// One worker's part in the balance.
#[derive(Debug)]
pub struct Balance {
    peers: Vec<Peer>,
    arrivals: Receiver<Moved>,
    measured: Instant,
    /// What the thread had used by then, as [`used_us`] counts.
    used_us: u64,
    /// The peer that gets sessions, and how many it still gets.
    target: usize,
    moves: usize,
}

impl Balance {
    /// One for each of these workers, which must be more than one, in their order.
    #[must_use]
    pub fn between(workers: &[(Arc<Waker>, Arc<Counters>)]) -> Vec<Balance> {
        let (queues, arrivals): (Vec<_>, Vec<_>) = workers.iter().map(|_| sync_channel(MOST_MOVES)).unzip();
        let peer = |index: usize| {
            let (waker, counters) = workers.get(index)?;
            let queue = queues.get(index)?.clone();
            Some(Peer { queue, waker: Arc::clone(waker), counters: Arc::clone(counters) })
        };
        let of = |(own, arrivals): (usize, Receiver<Moved>)| {
            let peers = (0..workers.len()).filter(|index| *index != own).filter_map(peer).collect();
            Balance { peers, arrivals, measured: Instant::default(), used_us: 0, target: 0, moves: 0 }
        };
        arrivals.into_iter().enumerate().map(of).collect()
    }

    /// A session that another worker has handed over.
    pub fn arrival(&self) -> Option<Moved> {
        self.arrivals.try_recv().ok()
    }

    /// Closes a time of measuring, in which `active` sessions did something; finds out whether some of them should move.
    /// To be called by the worker's own thread.
    pub fn measure(&mut self, now: Instant, active: usize, own: &Counters) {
        let (elapsed, used) = (now.since(self.measured).max(1), used_us());
        let busy = (used.saturating_sub(self.used_us) * 1000 / elapsed).min(1000);
        (self.measured, self.used_us) = (now, used);
        own.busy.set(busy);
        let loads = self.peers.iter().map(|peer| peer.counters.busy.get());
        (self.target, self.moves) = decide(busy, loads, active).unwrap_or_default();
    }

    /// Whether sessions are to move.
    #[must_use]
    pub fn has_moves(&self) -> bool {
        self.moves > 0
    }

    /// Hands a session over; gives it back where the other worker takes none.
    pub fn hand_over(&mut self, moved: Moved) -> Option<Moved> {
        let Some(peer) = self.peers.get(self.target) else { return Some(moved) };
        match peer.queue.try_send(moved) {
            Ok(()) => {
                self.moves -= 1;
                if let Err(error) = peer.waker.wake() {
                    warn!(%error, "a worker could not be woken; it will find its session within half a second");
                }
                None
            }
            Err(TrySendError::Full(moved) | TrySendError::Disconnected(moved)) => {
                self.moves = 0;
                Some(moved)
            }
        }
    }
}

/// How long this thread has run, or has waited for a processor to run on; 0 where the kernel does not say, and then
/// nothing ever moves.
fn used_us() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().take(2).filter_map(|number| number.parse::<u64>().ok());
    nanoseconds.sum::<u64>() / 1000
}

/// Which of the others gets how many of `active` sessions from a worker that is `busy`, all in thousandths.
///
/// As many as make the two equally busy, were all sessions alike; a worker with a single one keeps it, because that
/// would keep the other as busy.
fn decide(busy: u64, others: impl Iterator<Item = u64>, active: usize) -> Option<(usize, usize)> {
    let (target, least) = others.enumerate().min_by_key(|(_, busy)| *busy)?;
    if active < 2 || busy < OVERLOADED || busy < least + GAP {
        return None;
    }
    let share = active as u64 * (busy - least) / (2 * busy);
    Some((target, (share as usize).clamp(1, MOST_MOVES)))
}

#[cfg(test)]
mod tests {
    use super::{MOST_MOVES, decide, used_us};

    #[test]
    fn the_least_busy_worker_gets_half_of_the_difference() {
        assert_eq!(decide(1000, [500, 0, 900].into_iter(), 20), Some((1, 10)));
        assert_eq!(decide(900, [300].into_iter(), 9), Some((0, 3)));
        assert_eq!(decide(900, [0].into_iter(), 2), Some((0, 1)));
        assert_eq!(decide(1000, [0].into_iter(), 10_000), Some((0, MOST_MOVES)));
    }

    #[test]
    fn who_is_not_overloaded_keeps_its_sessions() {
        assert_eq!(decide(500, [0].into_iter(), 20), None);
        assert_eq!(decide(900, [700].into_iter(), 20), None);
        assert_eq!(decide(1000, [0].into_iter(), 1), None);
    }

    #[test]
    fn the_kernel_says_what_a_thread_has_used() {
        let before = used_us();
        // A thread that works is seen to.
        let mut sum = 0_u64;
        while used_us() < before + 2000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
