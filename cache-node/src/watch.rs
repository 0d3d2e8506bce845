//! `watch`: connections that are told what happens inside the node, in the words of memcached's logger.
//!
//! Whoever has something to tell asks [`Watch::wants`] first, which costs one read while nobody watches. What is told goes
//! through a bounded queue to a thread of its own, which owns the watchers' connections and never waits for one of them:
//! who does not read loses lines and is told how many.

use std::fmt::{self, Write as _};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memcache::Streams;

use crate::clock::{Clock, Instant};
use crate::connections::{Listed, Use};
use crate::transport::Transport;

/// Watchers at once, as in memcached.
const MOST_WATCHERS: usize = 20;
/// Events on their way to the thread; further ones are lost, and counted.
const QUEUE: usize = 4096;
/// Bytes that wait for one watcher to read; further lines are lost to it, and counted.
pub const MOST_PENDING: usize = 64 << 10;
/// Events that are taken before watchers are written to.
const MOST_EVENTS: usize = 256;
/// The longest sleep: watchers that went away are noticed, and the end of the node.
const LONGEST_SLEEP: Duration = Duration::from_millis(250);
/// How soon a watcher that could not take everything is written to again.
const RETRY: Duration = Duration::from_millis(10);
/// What a watcher sends is read, because its end is only found out so, and means nothing.
const IGNORED: usize = 512;

/// Something that can be told to watchers.
#[derive(Clone, Debug)]
pub enum Event {
    /// An item was dropped to make room.
    Eviction {
        /// Its key.
        key: Box<[u8]>,
        /// Seconds that it had left; none where it would not have expired.
        ttl: Option<u64>,
        /// The length of its value.
        size: usize,
    },
    /// A key was looked up.
    Fetch {
        /// The key.
        key: Box<[u8]>,
        /// The length of the value; none where there was no item.
        size: Option<usize>,
    },
    /// An item was to be stored.
    Store {
        /// Its key.
        key: Box<[u8]>,
        /// The command.
        command: &'static str,
        /// `stored`, or why not.
        status: &'static str,
        /// The length of the value that was sent.
        size: usize,
    },
    /// A client connected.
    Connected {
        /// From where.
        client: SocketAddr,
    },
    /// A connection ended.
    Disconnected {
        /// From where it was.
        client: SocketAddr,
        /// Why, in a word.
        reason: &'static str,
    },
    /// A request took longer than it should.
    Slow {
        /// The command.
        command: &'static str,
        /// Its first key; empty where it has none.
        key: Box<[u8]>,
        /// From the arrival of its bytes until its reply was ready.
        micros: u64,
        /// Who asked.
        client: SocketAddr,
    },
}

impl Event {
    fn stream(&self) -> Streams {
        match self {
            Event::Eviction { .. } => Streams::EVICTIONS,
            Event::Fetch { .. } => Streams::FETCHERS,
            Event::Store { .. } => Streams::MUTATIONS,
            Event::Connected { .. } | Event::Disconnected { .. } => Streams::CONNECTIONS,
            Event::Slow { .. } => Streams::SLOW,
        }
    }

    /// The line that watchers get, as memcached words it; what only memcached has (slab classes, file descriptors) is
    /// left out.
    fn line(&self, at: Instant, number: u64) -> String {
        let micros = at.micros();
        let mut line = format!("ts={}.{:06} gid={number} ", micros / 1_000_000, micros % 1_000_000);
        // Writing to a string cannot fail.
        let written = self.describe(&mut line);
        debug_assert!(written.is_ok());
        line.push('\n');
        line
    }

    fn describe(&self, line: &mut String) -> fmt::Result {
        match self {
            Event::Eviction { key, ttl, size } => {
                let ttl = ttl.map_or(-1, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
                write!(line, "type=eviction key={} ttl={ttl} size={size}", Escaped(key))
            }
            Event::Fetch { key, size } => {
                let status = if size.is_some() { "found" } else { "not_found" };
                write!(line, "type=item_get key={} status={status} size={}", Escaped(key), size.unwrap_or(0))
            }
            Event::Store { key, command, status, size } => {
                write!(line, "type=item_store key={} status={status} cmd={command} size={size}", Escaped(key))
            }
            Event::Connected { client } => {
                write!(line, "type=conn_new rip={} rport={} transport=tcp", client.ip(), client.port())
            }
            Event::Disconnected { client, reason } => {
                let (address, port) = (client.ip(), client.port());
                write!(line, "type=conn_close rip={address} rport={port} transport=tcp reason={reason}")
            }
            Event::Slow { command, key, micros, client } => {
                let (address, port, key) = (client.ip(), client.port(), Escaped(key));
                write!(line, "type=slow_command cmd={command} key={key} us={micros} rip={address} rport={port}")
            }
        }
    }
}

/// A key as memcached's logger writes it: percent-encoded, so that it is one word whatever is in it.
pub struct Escaped<'a>(pub &'a [u8]);

impl Escaped<'_> {
    /// Writes it to bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let written = write!(out, "{self}");
        debug_assert!(written.is_ok());
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.write_char(char::from(*byte)),
            byte => write!(out, "%{byte:02X}"),
        })
    }
}

/// What the threads that serve requests have of the watchers.
#[derive(Debug)]
pub struct Watch {
    clock: Clock,
    /// For each stream, how many watch it.
    wanted: [AtomicU32; Streams::COUNT],
    watchers: AtomicUsize,
    queue: SyncSender<Box<Message>>,
    /// Numbers events and gives each its `gid`.
    numbers: AtomicU64,
    lost: AtomicU64,
    sent: AtomicU64,
    skipped: AtomicU64,
    /// The other end of the queue, until its thread starts.
    inbox: Mutex<Option<Receiver<Box<Message>>>>,
}

/// What crosses to the watchers' thread.
#[derive(Debug)]
enum Message {
    Event {
        at: Instant,
        number: u64,
        event: Event,
    },
    Watcher {
        ticket: Ticket,
        transport: Transport,
        listed: Listed,
    },
    /// Something else has changed: look again.
    Wake,
}

/// The right to watch, which one of [`MOST_WATCHERS`] has for as long as this lives.
#[derive(Debug)]
pub struct Ticket {
    streams: Streams,
    watch: Arc<Watch>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.watch.watchers.fetch_sub(1, Ordering::Relaxed);
        for stream in self.streams.indices() {
            self.watch.wanted[stream].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Figures of the watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Watchers now.
    pub watchers: usize,
    /// Lines that were written to watchers.
    pub sent: u64,
    /// Lines that a watcher did not get because it did not read.
    pub skipped: u64,
    /// Events that nobody got because too many came at once.
    pub lost: u64,
}

impl Watch {
    /// Nobody watches yet.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Watch> {
        let (queue, inbox) = sync_channel(QUEUE);
        Arc::new(Watch {
            clock,
            wanted: Default::default(),
            watchers: AtomicUsize::new(0),
            queue,
            numbers: AtomicU64::new(1),
            lost: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            inbox: Mutex::new(Some(inbox)),
        })
    }

    /// Whether anybody watches one of these streams.
    #[inline]
    #[must_use]
    pub fn wants(&self, streams: Streams) -> bool {
        streams.indices().any(|stream| self.wanted[stream].load(Ordering::Relaxed) > 0)
    }

    /// Tells those who watch; never waits.
    pub fn tell(&self, event: Event) {
        if self.wants(event.stream()) {
            let (at, number) = (self.clock.now(), self.numbers.fetch_add(1, Ordering::Relaxed));
            if self.queue.try_send(Box::new(Message::Event { at, number, event })).is_err() {
                self.count_lost(1);
            }
        }
    }

    /// As [`Watch::tell`], of what is only made where someone watches.
    #[inline]
    pub fn tell_if_wanted(&self, streams: Streams, event: impl FnOnce() -> Event) {
        if self.wants(streams) {
            self.tell(event());
        }
    }

    /// Counts events that could not be told.
    pub fn count_lost(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    /// The right to watch these streams; none where too many watch already.
    #[must_use]
    pub fn admit(self: &Arc<Watch>, streams: Streams) -> Option<Ticket> {
        let one_more = |watchers: usize| Some(watchers + 1).filter(|watchers| *watchers <= MOST_WATCHERS);
        self.watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        for stream in streams.indices() {
            self.wanted[stream].fetch_add(1, Ordering::Relaxed);
        }
        Some(Ticket { streams, watch: Arc::clone(self) })
    }

    /// Hands a connection over to the watchers' thread, which greets it; it ends where the queue is full.
    pub fn join(&self, ticket: Ticket, transport: Transport, listed: Listed) {
        listed.set_use(Use::Watches);
        drop(self.queue.try_send(Box::new(Message::Watcher { ticket, transport, listed })));
    }

    /// Has the thread look at the phase of the node.
    pub fn wake(&self) {
        // Where the queue is full the thread is awake.
        drop(self.queue.try_send(Box::new(Message::Wake)));
    }

    /// The figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            watchers: self.watchers.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    /// Serves the watchers until `goes_on` says no: the body of their thread, of which there is one.
    pub fn serve(&self, goes_on: impl Fn() -> bool) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(inbox) = inbox else { return };
        let mut watchers: Vec<Watcher> = Vec::new();
        let mut told_lost = 0;
        while goes_on() {
            let behind = watchers.iter().any(|watcher| !watcher.pending.is_empty());
            match inbox.recv_timeout(if behind { RETRY } else { LONGEST_SLEEP }) {
                Ok(message) => {
                    let more = inbox.try_iter().take(MOST_EVENTS);
                    std::iter::once(message).chain(more).for_each(|message| self.deliver(*message, &mut watchers));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let lost = self.lost.load(Ordering::Relaxed);
            watchers.iter_mut().for_each(|watcher| watcher.skipped += lost - told_lost);
            told_lost = lost;
            watchers.retain_mut(Watcher::is_served);
        }
    }

    fn deliver(&self, message: Message, watchers: &mut Vec<Watcher>) {
        match message {
            Message::Event { at, number, event } => {
                let (line, stream) = (event.line(at, number), event.stream());
                for watcher in watchers.iter_mut().filter(|watcher| watcher.ticket.streams.has(stream)) {
                    let count = if watcher.take(&line) { &self.sent } else { &self.skipped };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Watcher { ticket, transport, listed } => {
                watchers.push(Watcher { ticket, transport, _listed: listed, pending: b"OK\r\n".to_vec(), skipped: 0 });
            }
            Message::Wake => {}
        }
    }
}

/// One connection that watches.
struct Watcher {
    ticket: Ticket,
    transport: Transport,
    /// Its place in the list of all connections.
    _listed: Listed,
    /// Bytes that the socket has not taken yet.
    pending: Vec<u8>,
    /// Lines that this one was not told since it was last told how many.
    skipped: u64,
}

impl Watcher {
    /// Takes a line if there is room for it.
    fn take(&mut self, line: &str) -> bool {
        if self.pending.len() + line.len() > MOST_PENDING {
            self.skipped += 1;
            return false;
        }
        if self.skipped > 0 {
            self.pending.extend_from_slice(format!("[skipped: {}]\n", self.skipped).as_bytes());
            self.skipped = 0;
        }
        self.pending.extend_from_slice(line.as_bytes());
        true
    }

    /// Writes what the socket takes; says whether the connection still stands.
    fn is_served(&mut self) -> bool {
        let mut taken = 0;
        let stands = loop {
            match self.transport.write(&self.pending[taken..]) {
                _ if taken == self.pending.len() => break true,
                Ok(0) => break false,
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        self.pending.drain(..taken);
        stands && self.transport.is_admitted() && self.is_there()
    }

    fn is_there(&mut self) -> bool {
        match self.transport.read(&mut [0; IGNORED]) {
            Ok(count) => count > 0,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, MOST_WATCHERS, Watch};
    use crate::clock::Clock;
    use memcache::Streams;

    #[test]
    fn lines_are_memcacheds() {
        let clock = Clock::start(0);
        let key = b"a b%\xe9".as_slice();
        for (event, line) in [
            (Event::Eviction { key: key.into(), ttl: None, size: 3 }, "type=eviction key=a%20b%25%E9 ttl=-1 size=3"),
            (Event::Fetch { key: key.into(), size: None }, "type=item_get key=a%20b%25%E9 status=not_found size=0"),
            (
                Event::Slow {
                    command: "get",
                    key: b"k".as_slice().into(),
                    micros: 7,
                    client: ([127, 0, 0, 1], 5).into(),
                },
                "type=slow_command cmd=get key=k us=7 rip=127.0.0.1 rport=5",
            ),
        ] {
            let text = event.line(clock.now(), 9);
            assert!(text.starts_with("ts=") && text.ends_with(&format!(" gid=9 {line}\n")), "{text}");
        }
    }

    #[test]
    fn a_stream_is_wanted_as_long_as_somebody_watches_it() {
        let watch = Watch::new(Clock::start(0));
        assert!(!watch.wants(Streams::EVICTIONS));
        let ticket = watch.admit(Streams::EVICTIONS.and(Streams::SLOW)).unwrap();
        assert!(watch.wants(Streams::EVICTIONS) && watch.wants(Streams::SLOW) && !watch.wants(Streams::FETCHERS));
        drop(ticket);
        assert!(!watch.wants(Streams::EVICTIONS) && !watch.wants(Streams::SLOW));
    }

    #[test]
    fn watchers_are_limited() {
        let watch = Watch::new(Clock::start(0));
        let tickets: Vec<_> = (0..MOST_WATCHERS).map(|_| watch.admit(Streams::FETCHERS).unwrap()).collect();
        assert!(watch.admit(Streams::FETCHERS).is_none());
        drop(tickets);
        assert!(watch.admit(Streams::FETCHERS).is_some());
    }

    #[test]
    fn what_is_told_faster_than_it_is_read_is_counted() {
        let watch = Watch::new(Clock::start(0));
        let ticket = watch.admit(Streams::FETCHERS).unwrap();
        for _ in 0..super::QUEUE + 10 {
            watch.tell(Event::Fetch { key: b"k".as_slice().into(), size: None });
        }
        assert_eq!(watch.figures().lost, 10);
        drop(ticket);
        watch.tell(Event::Fetch { key: b"k".as_slice().into(), size: None });
        assert_eq!(watch.figures().lost, 10);
    }
}
