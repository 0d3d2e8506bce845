//! The sleep and wake protocol between a worker and the storage thread, in every order of steps that the memory model
//! allows. It is the node's own file that is tried, with loom's atomics in place of the standard library's.

mod atomics {
    pub use loom::sync::atomic::{AtomicBool, Ordering};
}

#[path = "../src/bell.rs"]
mod bell;

use bell::Bell;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

/// One direction of a link: the end of a ring, and a sleeper who is woken by a call into the kernel. As in the node, it may
/// also wake by itself.
struct Link {
    bell: Bell,
    published: AtomicUsize,
    wake: Notify,
}

impl Link {
    fn new() -> Arc<Link> {
        Arc::new(Link { bell: Bell::default(), published: AtomicUsize::new(0), wake: Notify::new() })
    }

    /// As a ring does it: what is pushed is visible to who sees the new end, and nothing more is promised.
    fn publish(&self, end: usize) {
        self.published.store(end, Ordering::Release);
        if self.bell.must_ring() {
            self.wake.notify();
        }
    }

    /// Takes work until all `count` pieces were there. Loom reports a deadlock where it sleeps and nobody wakes it.
    fn take_all(&self, count: usize) {
        while self.published.load(Ordering::Acquire) < count {
            self.bell.before_sleep();
            if self.published.load(Ordering::Acquire) < count {
                self.wake.wait();
            }
            self.bell.awake();
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    loom::model(|| {
        let link = Link::new();
        let sleeper = thread::spawn({
            let link = Arc::clone(&link);
            move || link.take_all(1)
        });
        link.publish(1);
        sleeper.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_after_a_first_one() {
    loom::model(|| {
        let link = Link::new();
        let sleeper = thread::spawn({
            let link = Arc::clone(&link);
            move || link.take_all(2)
        });
        link.publish(1);
        link.publish(2);
        sleeper.join().unwrap();
    });
}

/// The storage thread is woken by several workers: one of them is enough, but one of them must.
#[test]
fn two_wakers_wake_a_sleeper_once() {
    loom::model(|| {
        let bell = Arc::new(Bell::default());
        let work = Arc::new(AtomicBool::new(false));
        bell.before_sleep();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let (bell, work) = (Arc::clone(&bell), Arc::clone(&work));
                thread::spawn(move || {
                    work.store(true, Ordering::Release);
                    bell.must_ring()
                })
            })
            .collect();
        let rung = wakers.into_iter().map(|waker| waker.join().unwrap()).filter(|rung| *rung).count();
        assert_eq!(rung, 1);
    });
}

#[test]
fn a_bell_rings_once_for_each_sleep() {
    loom::model(|| {
        let bell = Bell::default();
        assert!(!bell.must_ring());
        bell.before_sleep();
        assert!(bell.must_ring());
        assert!(!bell.must_ring());
        bell.before_sleep();
        bell.awake();
        assert!(!bell.must_ring());
    });
}
