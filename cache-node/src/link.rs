//! The way between a worker and the storage thread: a pair of rings with one writer and one reader each.
//!
//! What crosses is a whole [`Batch`]: everything that one readiness event brought, parsed. A worker publishes the
//! batches of all its sessions once a poll round and wakes the storage thread at most once, and only if it sleeps.

use std::collections::VecDeque;
use std::sync::Arc;

use mio::Waker;
use rtrb::{Consumer, Producer, RingBuffer};
use tracing::warn;

use crate::bell::Bell;
use crate::buffers::Batch;

/// Batches in one direction. What does not fit waits with its sender: a session has at most one batch on its way, so
/// that is bounded by the number of sessions.
const CAPACITY: usize = 4096;

/// A worker's end of the link.
pub struct WorkerEnd {
    requests: Producer<Box<Batch>>,
    replies: Consumer<Box<Batch>>,
    /// What this poll round hands in.
    outbox: VecDeque<Box<Batch>>,
    /// The storage thread's.
    storage_bell: Arc<Bell>,
    storage: std::thread::Thread,
    /// This worker's.
    bell: Arc<Bell>,
}

/// The storage thread's end of the link.
pub struct StorageEnd {
    requests: Consumer<Box<Batch>>,
    replies: Producer<Box<Batch>>,
    /// Batches that are done.
    outbox: VecDeque<Box<Batch>>,
    bell: Arc<Bell>,
    waker: Arc<Waker>,
}

/// The storage thread as its workers know it.
#[derive(Clone, Debug)]
pub struct Sleeper {
    /// Whether it sleeps.
    pub bell: Arc<Bell>,
    /// The thread, parked while it sleeps.
    pub thread: std::thread::Thread,
}

/// The two ends of a link between the worker behind `waker` and the storage thread.
#[must_use]
pub fn link(waker: Arc<Waker>) -> (UnboundEnd, StorageEnd) {
    let (request_in, request_out) = RingBuffer::new(CAPACITY);
    let (reply_in, reply_out) = RingBuffer::new(CAPACITY);
    let bell = Arc::new(Bell::default());
    let worker = UnboundEnd { requests: request_in, replies: reply_out, bell: Arc::clone(&bell) };
    let storage = StorageEnd { requests: request_out, replies: reply_in, outbox: VecDeque::new(), bell, waker };
    (worker, storage)
}

/// A worker's end before the storage thread, which needs the other ends first, was started.
pub struct UnboundEnd {
    requests: Producer<Box<Batch>>,
    replies: Consumer<Box<Batch>>,
    bell: Arc<Bell>,
}

impl UnboundEnd {
    /// The end that leads to this storage thread.
    #[must_use]
    pub fn bind(self, storage: Sleeper) -> WorkerEnd {
        let Sleeper { bell: storage_bell, thread: storage } = storage;
        let UnboundEnd { requests, replies, bell } = self;
        WorkerEnd { requests, replies, outbox: VecDeque::new(), storage_bell, storage, bell }
    }
}

impl WorkerEnd {
    /// Keeps a batch until the next [`WorkerEnd::publish`].
    pub fn hand_in(&mut self, batch: Box<Batch>) {
        self.outbox.push_back(batch);
    }

    /// Publishes what was handed in, as far as there is room, in one step, and wakes the storage thread if it sleeps.
    pub fn publish(&mut self) {
        if push_all(&mut self.requests, &mut self.outbox) && self.storage_bell.must_ring() {
            self.storage.unpark();
        }
    }

    /// A batch that came back.
    pub fn answered(&mut self) -> Option<Box<Batch>> {
        self.replies.pop().ok()
    }

    /// To be called before the worker sleeps: whether it must not.
    pub fn before_sleep(&mut self) -> bool {
        self.bell.before_sleep();
        !self.replies.is_empty()
    }

    /// To be called when the worker is awake again.
    pub fn awake(&self) {
        self.bell.awake();
    }
}

impl StorageEnd {
    /// The next request.
    pub fn request(&mut self) -> Option<Box<Batch>> {
        self.requests.pop().ok()
    }

    /// Whether there is a request.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Keeps a batch that is done until the next [`StorageEnd::publish`].
    pub fn hand_back(&mut self, batch: Box<Batch>) {
        self.outbox.push_back(batch);
    }

    /// Publishes what is done, as far as there is room, in one step, and wakes the worker if it sleeps.
    pub fn publish(&mut self) {
        if push_all(&mut self.replies, &mut self.outbox)
            && self.bell.must_ring()
            && let Err(error) = self.waker.wake()
        {
            warn!(%error, "a worker could not be woken; it will find its replies within half a second");
        }
    }

    /// Whether done batches wait for room in the ring.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether the worker has ended and left nothing.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.requests.is_abandoned() && self.requests.is_empty()
    }
}

/// Moves as many batches as there is room for into the ring with one publication; says whether there were any.
fn push_all(ring: &mut Producer<Box<Batch>>, batches: &mut VecDeque<Box<Batch>>) -> bool {
    let count = batches.len().min(ring.slots());
    if count == 0 {
        return false;
    }
    match ring.write_chunk_uninit(count) {
        Ok(chunk) => chunk.fill_from_iter(batches.drain(..count)) > 0,
        Err(_) => false,
    }
}
