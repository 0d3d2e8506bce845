//! One thread's share of the load: the loop that sends requests and takes replies.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use mio::{Events, Interest, Poll, Token};

use crate::connection::{Connection, Loss, State};
use crate::plan::{Reconnect, Settings, Shared, Window};
use crate::random::Random;
use crate::reply::{Outcome, Pending};
use crate::request::{Kind, Output};
use crate::schedule::Schedule;
use crate::tally::Tally;
use crate::transport::{Identity, Transport};

/// What this thread sends to one server.
#[derive(Debug)]
struct Lane {
    server: usize,
    connections: Range<usize>,
    kind_at: usize,
    id_at: usize,
    fill: Range<usize>,
    schedule: Option<Schedule>,
    /// The connection whose turn it is, in an open loop.
    turn: usize,
}

impl Lane {
    /// A request that was due is taken care of.
    fn advance(&mut self) {
        if let Some(schedule) = &mut self.schedule {
            schedule.advance();
        }
    }

    /// Appends the next request of the script.
    fn ask(&mut self, shared: &Shared, connection: &mut Connection, due: u64) {
        let script = &shared.scripts[self.server];
        let kind = script.kinds[self.kind_at];
        self.kind_at = (self.kind_at + 1) % script.kinds.len();
        let keys = if kind == Kind::MultiGet { shared.settings.multiget } else { 1 };
        if self.id_at + keys > script.ids.len() {
            self.id_at = 0;
        }
        let at = self.id_at;
        self.id_at += keys;
        let id = if kind == Kind::MultiGet { at as u32 } else { script.ids[at] };
        let request = Pending { kind, id, keys: keys as u32, due };
        self.encode(shared, request, &mut connection.output);
        connection.expect(request);
    }

    fn encode(&self, shared: &Shared, request: Pending, output: &mut Output) {
        let Pending { kind, id, keys, .. } = request;
        let Settings { encoder, .. } = &shared.settings;
        if kind == Kind::MultiGet {
            let at = id as usize;
            let ids = shared.scripts[self.server].ids[at..at + keys as usize].iter().copied();
            encoder.encode_many(ids, &shared.keyspace, output);
        } else {
            encoder.encode(kind, id, &shared.keyspace, output);
        }
    }
}

/// What the loop does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connect,
    Fill,
    Closed { until: u64 },
    Open { until: u64 },
    Drain,
}

const EVENTS: usize = 1024;
/// A read takes at most this much.
const BUFFER: usize = 256 << 10;
/// Sets on their way at once, on each connection, while keys are stored.
const FILL_DEPTH: usize = 64;
/// Bytes of these, so that large values do not pile up.
const FILL_BYTES: usize = 1 << 20;
const CHORES: u64 = 50_000_000;
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// Below this the loop does not sleep: the kernel wakes sleepers too late to keep to a schedule.
const SHORTEST_WAIT: u64 = 2_000_000;
/// Requests begun in one round of an open loop, so that replies are looked at in between.
const ROUND: usize = 256;
const FIRST_DELAY: u64 = 10_000_000;
const LONGEST_DELAY: u64 = 1_000_000_000;
/// After the window, replies are waited for this long.
const DRAIN: u64 = 2_000_000_000;

/// A thread's connections and what they do.
pub struct Driver {
    shared: Arc<Shared>,
    poll: Poll,
    lanes: Vec<Lane>,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    tally: Tally,
    stage: Stage,
    missed: Vec<u32>,
    identities: Vec<Option<Identity>>,
    identity_changed: Option<SystemTime>,
    chores_at: u64,
    reported: (u64, u64),
}

impl Driver {
    /// Thread `thread` of those in the settings.
    ///
    /// # Errors
    /// Where TLS files or the system do not allow it.
    pub fn new(shared: Arc<Shared>, thread: usize) -> io::Result<Driver> {
        let threads = shared.settings.threads;
        let share = |all: usize| all * thread / threads..all * (thread + 1) / threads;
        let (mut lanes, mut connections) = (Vec::new(), Vec::new());
        for (server, script) in shared.scripts.iter().enumerate() {
            let first = connections.len();
            connections.extend(share(shared.settings.connections).map(|_| Connection::new(server)));
            lanes.push(Lane {
                server,
                connections: first..connections.len(),
                kind_at: share(script.kinds.len()).start,
                id_at: share(script.ids.len()).start,
                fill: share(script.fill.len()),
                schedule: None,
                turn: 0,
            });
        }
        let tally = Tally::new().map_err(io::Error::other)?;
        let mut driver = Driver {
            poll: Poll::new()?,
            lanes,
            connections,
            buffer: vec![0; BUFFER],
            tally,
            stage: Stage::Connect,
            missed: Vec::new(),
            identities: Vec::new(),
            identity_changed: None,
            chores_at: 0,
            reported: (0, 0),
            shared,
        };
        driver.load_identities()?;
        Ok(driver)
    }

    /// Makes all connections.
    ///
    /// # Errors
    /// The first that cannot be made within the time.
    pub fn connect(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let deadline = self.shared.now() + self.shared.settings.connect_timeout.as_nanos() as u64;
        while !self.connections.iter().all(Connection::is_up) {
            self.round(&mut events)?;
            if self.is_stopped() {
                break;
            }
            if self.shared.now() > deadline || self.connections.iter().any(|c| matches!(c.state, State::Lost)) {
                let reasons: Vec<_> = self.tally.errors.texts.keys().cloned().collect();
                let up = self.connections.iter().filter(|connection| connection.is_up()).count();
                let all = self.connections.len();
                return Err(io::Error::other(format!(
                    "{up} of {all} connections were made: {}; is the server running, and does it take as many?",
                    reasons.join("; ")
                )));
            }
        }
        Ok(())
    }

    /// Stores every key once.
    ///
    /// # Errors
    /// Where the system fails, or the server does not answer.
    pub fn fill(&mut self) -> io::Result<Tally> {
        self.stage = Stage::Fill;
        self.tally.until = u64::MAX;
        let mut events = Events::with_capacity(EVENTS);
        for index in 0..self.connections.len() {
            self.proceed(index);
        }
        while self.lanes.iter().any(|lane| !lane.fill.is_empty()) || self.is_waiting() {
            self.round(&mut events)?;
            if self.is_stopped() {
                break;
            }
            if self.connections.iter().all(|connection| matches!(connection.state, State::Lost)) {
                return Err(io::Error::other("every connection was lost while keys were stored"));
            }
        }
        self.take_tally()
    }

    /// Sends requests for as long as the window lasts.
    ///
    /// # Errors
    /// Where the system fails.
    pub fn load(&mut self, window: Window) -> io::Result<Tally> {
        let Window { begin, from, until } = window;
        let rate = self.shared.settings.rate;
        (self.tally.from, self.tally.until, self.tally.by_due) = (from, until, rate.is_some());
        let mut events = Events::with_capacity(EVENTS);
        match rate {
            Some(rate) => {
                self.set_schedules(begin, rate);
                self.stage = Stage::Open { until };
            }
            None => self.stage = Stage::Closed { until },
        }
        for index in 0..self.connections.len() {
            self.proceed(index);
        }
        while self.shared.now() < until && !self.is_stopped() {
            self.round(&mut events)?;
        }
        // An early end is the window's end.
        let end = until.min(self.shared.now());
        self.tally.until = end;
        if rate.is_none() {
            self.stage = Stage::Drain;
        } else {
            self.stage = Stage::Open { until: end };
        }
        while (self.is_waiting() || self.is_behind(end)) && self.shared.now() < end + DRAIN {
            self.round(&mut events)?;
        }
        self.give_up_rest(end);
        self.take_tally()
    }

    fn set_schedules(&mut self, begin: u64, rate: f64) {
        let threads = self.shared.settings.threads as f64;
        for (lane, script) in self.lanes.iter_mut().zip(&self.shared.scripts) {
            let of_lane = rate * script.share / threads;
            let seed = Random::new(lane.connections.start as u64 ^ begin ^ lane.id_at as u64);
            let poisson = self.shared.settings.poisson.then_some(seed);
            lane.schedule = (of_lane > 0.0).then(|| Schedule::new(begin, of_lane, poisson));
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn is_waiting(&self) -> bool {
        self.connections.iter().any(|connection| !connection.pending.is_empty())
    }

    /// Whether requests that were due before `end` are still to be sent.
    fn is_behind(&self, end: u64) -> bool {
        self.lanes.iter().filter_map(|lane| lane.schedule.as_ref()).any(|schedule| schedule.due() < end)
    }

    fn give_up_rest(&mut self, end: u64) {
        let now = self.shared.now();
        for connection in &self.connections {
            for asked in &connection.pending {
                self.tally.give_up(asked.kind, asked.due, now);
            }
        }
        for schedule in self.lanes.iter_mut().filter_map(|lane| lane.schedule.as_mut()) {
            while schedule.due() < end {
                // Of what was never sent, the kind does not matter.
                self.tally.give_up(Kind::Get, schedule.due(), now);
                schedule.advance();
            }
        }
    }

    fn take_tally(&mut self) -> io::Result<Tally> {
        self.report();
        self.reported = (0, 0);
        let fresh = Tally::new().map_err(io::Error::other)?;
        Ok(std::mem::replace(&mut self.tally, fresh))
    }

    /// One round of the loop: what is due is sent, what has come is taken.
    fn round(&mut self, events: &mut Events) -> io::Result<()> {
        let now = self.shared.now();
        if now >= self.chores_at {
            self.do_chores(now);
            self.chores_at = now + CHORES;
        }
        if let Stage::Open { until } = self.stage {
            self.send_due(now.min(until.saturating_sub(1)));
        }
        let wait = self.wait(now);
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &*events {
            self.serve(event.token().0, event.is_readable() || event.is_error(), event.is_read_closed());
        }
        Ok(())
    }

    fn wait(&self, now: u64) -> Duration {
        let Stage::Open { until } = self.stage else { return LONGEST_WAIT };
        let due = self.lanes.iter().filter_map(|lane| lane.schedule.as_ref()).map(Schedule::due).min();
        let left = due.filter(|&due| due < until).map_or(u64::MAX, |due| due.saturating_sub(now));
        if left < SHORTEST_WAIT {
            Duration::ZERO
        } else {
            // Poll counts in milliseconds and rounds up.
            Duration::from_millis((left - SHORTEST_WAIT / 2) / 1_000_000).min(LONGEST_WAIT)
        }
    }

    fn serve(&mut self, index: usize, readable: bool, closed: bool) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if let State::Connecting { transport, .. } = &mut connection.state {
            match transport.is_connected() {
                Ok(true) => self.connected(index),
                Ok(false) => {}
                Err(error) => self.lose(index, &Loss::Connect(error)),
            }
            return;
        }
        if readable {
            let (shared, tally, missed) = (&*self.shared, &mut self.tally, &mut self.missed);
            let expected = shared.expected(connection.lane);
            let refill = shared.settings.refill;
            let done = |asked: Pending, outcome: Outcome, now: u64| {
                if refill && outcome == Outcome::Absent && asked.kind.reads() && asked.kind != Kind::MultiGet {
                    missed.push(asked.id);
                }
                tally.reply(&asked, &outcome, now);
            };
            match connection.receive(&mut self.buffer, &expected, closed, || shared.now(), done) {
                Ok(received) => self.tally.received += received,
                Err(loss) => return self.lose(index, &loss),
            }
        }
        self.proceed(index);
    }

    fn connected(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if let State::Connecting { transport, .. } = std::mem::replace(&mut connection.state, State::Lost) {
            connection.state = State::Up { transport };
        }
        connection.attempts = 0;
        if connection.was_up {
            self.tally.errors.reconnects += 1;
        }
        connection.was_up = true;
        connection.progress = self.shared.now();
        let again = connection.pending.len();
        self.tally.errors.resent += again as u64;
        let lane = &self.lanes[connection.lane];
        for at in 0..again {
            lane.encode(&self.shared, connection.pending[at], &mut connection.output);
        }
        self.proceed(index);
    }

    /// Appends what this connection is to send next, and sends what it can.
    fn proceed(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.is_up() {
            self.missed.clear();
            return;
        }
        let lane = &mut self.lanes[connection.lane];
        let shared = &*self.shared;
        for id in self.missed.drain(..) {
            shared.settings.encoder.encode(Kind::Set, id, &shared.keyspace, &mut connection.output);
            connection.expect(Pending { kind: Kind::Set, id, keys: 1, due: shared.now() });
        }
        match self.stage {
            Stage::Fill if connection.pending.len() <= FILL_DEPTH / 2 => fill(lane, connection, shared),
            Stage::Closed { until } if connection.pending.is_empty() => {
                let now = shared.now();
                if now < until {
                    for _ in 0..shared.settings.pipeline {
                        lane.ask(shared, connection, now);
                    }
                    connection.progress = now;
                }
            }
            _ => {}
        }
        self.send(index);
    }

    fn send(&mut self, index: usize) {
        match self.connections[index].send(self.shared.keyspace.pad()) {
            Ok(sent) => self.tally.sent += sent,
            Err(loss) => self.lose(index, &loss),
        }
    }

    /// Sends the requests that are due, each on the next connection that has room for it.
    fn send_due(&mut self, now: u64) {
        for lane in 0..self.lanes.len() {
            for _ in 0..ROUND {
                match self.lanes[lane].schedule.as_ref().map(Schedule::due) {
                    Some(due) if due <= now => {
                        if !self.send_one(lane, due, now) {
                            break;
                        }
                    }
                    _ => break,
                }
            }
        }
    }

    /// # Returns
    /// Whether it is taken care of; otherwise no connection has room and it waits, which its latency will show.
    fn send_one(&mut self, lane_index: usize, due: u64, now: u64) -> bool {
        let lane = &mut self.lanes[lane_index];
        let (first, count) = (lane.connections.start, lane.connections.len());
        let depth = self.shared.settings.pipeline;
        let mut any_up = false;
        for step in 0..count {
            let index = first + (lane.turn + step) % count;
            let connection = &mut self.connections[index];
            any_up |= connection.is_up();
            if !connection.is_up() || connection.pending.len() >= depth {
                continue;
            }
            lane.turn = (lane.turn + step + 1) % count;
            if connection.pending.is_empty() {
                connection.progress = now;
            }
            lane.ask(&self.shared, connection, due);
            lane.advance();
            self.send(index);
            return true;
        }
        if any_up || self.shared.settings.reconnect == Reconnect::Resend {
            return false;
        }
        lane.advance();
        if (self.tally.from..self.tally.until).contains(&due) {
            self.tally.errors.unsent += 1;
            let server = &self.shared.servers.names[lane_index];
            self.tally.failure(&format!("{server}: no connection to send on"), now);
        }
        true
    }

    fn lose(&mut self, index: usize, loss: &Loss) {
        let now = self.shared.now();
        self.missed.clear();
        let connection = &mut self.connections[index];
        let server = &self.shared.servers.names[connection.lane];
        self.tally.failure(&format!("{server}: {loss}"), now);
        let errors = &mut self.tally.errors;
        match loss {
            Loss::Connect(_) | Loss::ConnectTimeout => errors.connects += 1,
            Loss::Closed | Loss::Io(_) => errors.disconnects += 1,
            Loss::Timeout => errors.timeouts += 1,
            Loss::Violation(_) => errors.violations += 1,
        }
        // What could not even be tried is lost, and so is what was tried twice.
        let keeps = self.shared.settings.reconnect == Reconnect::Resend
            && connection.has_answered
            && matches!(loss, Loss::Closed | Loss::Io(_));
        connection.reset();
        if !keeps {
            errors.lost += connection.pending.len() as u64;
            connection.pending.clear();
        }
        connection.attempts += 1;
        // At the start there is no server that was reached before, and waiting for one is the caller's decision.
        connection.state = match self.shared.settings.reconnect {
            Reconnect::Never => State::Lost,
            Reconnect::Backoff | Reconnect::Resend => {
                let delay = FIRST_DELAY.saturating_mul(1 << connection.attempts.min(8)).min(LONGEST_DELAY);
                let is_first = connection.attempts == 1;
                State::Down { retry: if is_first { now } else { now + delay } }
            }
        };
    }

    fn do_chores(&mut self, now: u64) {
        self.report();
        let timeout = self.shared.settings.timeout.as_nanos() as u64;
        let connect_timeout = self.shared.settings.connect_timeout.as_nanos() as u64;
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            match &connection.state {
                State::Down { retry } if *retry <= now => self.begin(index, now),
                State::Connecting { since, .. } if now - since > connect_timeout => {
                    self.lose(index, &Loss::ConnectTimeout);
                }
                State::Up { .. }
                    if !connection.pending.is_empty() && now.saturating_sub(connection.progress) > timeout =>
                {
                    self.lose(index, &Loss::Timeout);
                }
                _ => {}
            }
        }
    }

    fn begin(&mut self, index: usize, now: u64) {
        if let Err(error) = self.try_begin(index, now) {
            self.lose(index, &Loss::Connect(error));
        }
    }

    fn try_begin(&mut self, index: usize, now: u64) -> io::Result<()> {
        let lane = self.connections[index].lane;
        if self.shared.settings.tls.as_ref().is_some_and(|files| files.changed() != self.identity_changed) {
            self.load_identities()?;
        }
        let address = self.shared.servers.address(lane).ok_or_else(|| io::Error::other("no address"))?;
        let identity = self.identities.get(lane).and_then(Option::as_ref);
        let mut transport = Transport::connect(address, identity)?;
        self.poll.registry().register(transport.stream(), Token(index), Interest::READABLE | Interest::WRITABLE)?;
        self.connections[index].state = State::Connecting { transport, since: now };
        Ok(())
    }

    fn load_identities(&mut self) -> io::Result<()> {
        let Some(files) = &self.shared.settings.tls else { return Ok(()) };
        let changed = files.changed();
        let loaded: io::Result<Vec<_>> =
            self.shared.servers.names.iter().map(|server| files.load(server).map(Some)).collect();
        self.identities = loaded?;
        self.identity_changed = changed;
        Ok(())
    }

    /// Adds to the progress what came since the last time.
    fn report(&mut self) {
        let failures = self.tally.errors.texts.values().sum::<u64>();
        let (replies, failed) = self.reported;
        let progress = &self.shared.progress;
        progress.replies.fetch_add(self.tally.replies - replies, Ordering::Relaxed);
        progress.failures.fetch_add(failures - failed, Ordering::Relaxed);
        self.reported = (self.tally.replies, failures);
    }
}

fn fill(lane: &mut Lane, connection: &mut Connection, shared: &Shared) {
    let now = shared.now();
    if connection.pending.is_empty() {
        connection.progress = now;
    }
    let mut bytes = 0;
    while connection.pending.len() < FILL_DEPTH && bytes < FILL_BYTES {
        let Some(at) = lane.fill.next() else { return };
        let id = shared.scripts[lane.server].fill[at];
        shared.settings.encoder.encode(Kind::Set, id, &shared.keyspace, &mut connection.output);
        connection.expect(Pending { kind: Kind::Set, id, keys: 1, due: now });
        bytes += shared.keyspace.value(id).length();
    }
}
