//! A worker thread: the whole path of a request can be read here.

mod ending;
mod handover;
mod leaving;
mod lingering;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use memcache::{Limits, Protocol, Streams};
use mio::{Events, Poll, Token, Waker};
use tracing::debug;

use crate::balance::Balance;
use crate::buffers::{Batch, Parsed, Pool, Received, Sent};
use crate::clock::Instant;
use crate::connections::Use;
use crate::metrics::{Counters, Metrics, Phase};
use crate::session::{Session, SessionId, Sessions};
use crate::slow::{Client, SlowLog};
use crate::storage::{Storage, Submitted};
use crate::transport::Transport;
use crate::volume::VolumeError;
use crate::watch::{Event, Ticket};
use crate::worker::ending::Ending;
use crate::worker::lingering::Lingering;

/// The token of everything that is not a session: hand-over, replies of the storage thread, drain.
pub const WAKE: Token = Token(usize::MAX);

/// Events taken from the kernel in one round.
const EVENTS: usize = 1024;
/// New connections taken over in one round.
const MOST_ARRIVALS: usize = 64;
/// Steps (a read, an execution, a write) that a session takes before the others have their turn.
const MOST_STEPS: usize = 16;
/// The longest sleep: expiry goes on, and the heart beats, without requests too.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// How soon a session that waits for buffer memory tries again, if nobody else makes the worker look.
const STARVED_RETRY: Duration = Duration::from_millis(20);
/// A session that holds buffers makes way if it makes no progress for so long while others wait for memory.
const STALL_US: u64 = 10_000_000;
/// How often idle and stalled sessions are looked for.
const SWEEP_US: u64 = 1_000_000;

/// A worker's error, which ends the node.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The kernel does not report events any more.
    #[error("waiting for events failed: {0}")]
    Poll(io::Error),
    /// The volume has failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Where a worker's sessions come from and what they are served by.
pub struct Ways {
    /// New connections.
    pub arrivals: rtrb::Consumer<Transport>,
    /// The cache.
    pub storage: Storage,
    /// Where there are other workers.
    pub balance: Option<Balance>,
}

/// One thread that serves sessions.
pub struct Worker {
    poll: Poll,
    arrivals: rtrb::Consumer<Transport>,
    sessions: Sessions,
    pool: Pool,
    storage: Storage,
    balance: Option<Balance>,
    slow: Option<SlowLog>,
    counters: Arc<Counters>,
    metrics: Arc<Metrics>,
    protocol: Protocol,
    idle_timeout_us: Option<u64>,
    /// Connections that have ended, until their clients have heard of it.
    lingering: Lingering,
    /// Sessions that had used up their steps before they were done.
    unfinished: Vec<SessionId>,
    /// Those of the round before, while they have their turn.
    resumed: Vec<SessionId>,
    /// Sessions that wait for buffer memory, in the order in which they get it.
    starved: VecDeque<SessionId>,
    now: Instant,
    /// When waiting sessions last tried again, and how much of the budget was in use after that.
    retried: Instant,
    found_used: usize,
    swept: Instant,
    /// Sessions were told that the node closes.
    closing: bool,
    /// When trust had last shrunk as sessions were last looked at for it.
    trust_epoch: u64,
}

/// How a session's turn ended.
enum Turn {
    /// Nothing more to do until the kernel, or the storage thread, reports something.
    Rest,
    /// There is more to do, after the others.
    Unfinished,
    /// It cannot go on without buffer memory.
    Starved,
    /// The connection is for the watchers' thread from now on.
    Watch(Ticket),
    /// The connection ends.
    Over(Ending),
}

impl Worker {
    /// A worker that takes over what these `ways` bring.
    #[must_use]
    pub fn new(poll: Poll, ways: Ways, counters: Arc<Counters>, metrics: Arc<Metrics>) -> Worker {
        let Ways { arrivals, storage, balance } = ways;
        let now = metrics.clock.now();
        let idle_timeout_us = metrics.config.idle_timeout.0.as_micros() as u64;
        Worker {
            poll,
            arrivals,
            sessions: Sessions::default(),
            pool: Pool::new(Arc::clone(&metrics.budget)),
            storage,
            balance,
            slow: SlowLog::new(metrics.config.slow_command),
            counters,
            protocol: protocol(&metrics.config),
            idle_timeout_us: (idle_timeout_us > 0).then_some(idle_timeout_us),
            metrics,
            lingering: Lingering::default(),
            unfinished: Vec::new(),
            resumed: Vec::new(),
            starved: VecDeque::new(),
            now,
            retried: now,
            found_used: 0,
            swept: now,
            closing: false,
            trust_epoch: 0,
        }
    }

    /// Serves until the node has drained.
    ///
    /// # Errors
    /// [`WorkerError`]
    pub fn run(mut self) -> Result<(), WorkerError> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_over() {
            self.wait(&mut events)?;
            self.storage.advance(self.now, &self.metrics)?;
            self.admit();
            self.serve_ready(&events);
            self.serve_answered();
            self.serve_unfinished();
            self.serve_starved();
            self.storage.publish();
            self.sweep();
            self.lingering.expire(self.now);
            self.beat();
        }
        self.storage.close();
        Ok(())
    }

    fn is_over(&self) -> bool {
        match self.metrics.phase() {
            Phase::Stopping => true,
            Phase::Closing => {
                let none_comes = self.arrivals.is_abandoned() && self.arrivals.is_empty() && !self.metrics.has_moves();
                self.sessions.is_empty() && self.lingering.is_empty() && none_comes
            }
            _ => false,
        }
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), WorkerError> {
        let has_work = !self.unfinished.is_empty() || !self.arrivals.is_empty();
        let sleep = if has_work || self.storage.before_sleep() {
            Duration::ZERO
        } else if self.starved.is_empty() {
            LONGEST_SLEEP
        } else {
            STARVED_RETRY
        };
        match self.poll.poll(events, Some(sleep)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(WorkerError::Poll(error)),
            _ => {}
        }
        self.now = self.metrics.clock.now();
        Ok(())
    }

    /// Takes over new connections, and those of other workers.
    fn admit(&mut self) {
        for _ in 0..MOST_ARRIVALS {
            let Ok(mut transport) = self.arrivals.pop() else { break };
            // A client that is gone already has no address; reading from it will tell.
            let Ok(client) = transport.client() else {
                self.counters.closed.add(1);
                continue;
            };
            let listed = self.metrics.connections.list(client, self.now);
            self.metrics.watch.tell_if_wanted(Streams::CONNECTIONS, || Event::Connected { client });
            self.take_over(transport, listed);
        }
        self.take_over_moved();
        self.counters.sessions.set(self.sessions.len() as u64);
    }

    fn serve_ready(&mut self, events: &Events) {
        for event in events.iter().filter(|event| event.token() != WAKE) {
            let id = SessionId::of(event.token());
            let Some(session) = self.sessions.get_mut(id) else {
                self.lingering.hear(event.token());
                continue;
            };
            // A connection that failed, or was closed, is found out by reading from it.
            if event.is_writable() && !session.writable {
                session.listed.set_use(Use::Reads);
            }
            session.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            session.writable |= event.is_writable() || event.is_error();
            session.ending |= event.is_read_closed();
            self.serve(id);
        }
    }

    /// Takes up the sessions whose batches have come back from the storage thread.
    fn serve_answered(&mut self) {
        while let Some(batch) = self.storage.answered() {
            let id = batch.session;
            match self.sessions.get_mut(id) {
                Some(session) => {
                    session.in_flight = false;
                    if batch.has_commands() && !batch.has_output() {
                        session.rest = batch.rest();
                        if session.rest.is_some() {
                            self.pool.give_back(batch)
                        } else {
                            session.batch = Some(batch)
                        }
                        self.starve(id);
                    } else {
                        session.batch = Some(batch);
                        self.serve(id);
                    }
                }
                // The connection ended meanwhile; whoever has its slot now must not get its replies.
                None => self.pool.give_back(batch),
            }
        }
    }

    fn serve_unfinished(&mut self) {
        // What becomes unfinished now has its turn in the next round. The two lists swap, so that neither is allocated anew.
        std::mem::swap(&mut self.unfinished, &mut self.resumed);
        while let Some(id) = self.resumed.pop() {
            self.serve(id);
        }
    }

    /// Lets waiting sessions try again, in the order in which they came, when memory has come back or some time has
    /// passed. And all of them: one that needs much must not keep back those that need little.
    fn serve_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        let has_come_back = self.metrics.budget.used() < self.found_used;
        if !has_come_back && self.now.since(self.retried) < STARVED_RETRY.as_micros() as u64 {
            return;
        }
        self.retried = self.now;
        // What this worker keeps for later may be what its own sessions wait for.
        self.pool.release();
        for _ in 0..self.starved.len() {
            let Some(id) = self.starved.pop_front() else { return };
            self.metrics.budget.count_waiting(-1);
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.starved = false;
            self.serve(id);
        }
        self.found_used = self.metrics.budget.used();
    }

    fn serve(&mut self, id: SessionId) {
        match self.take_turn(id) {
            Turn::Rest => self.hand_over(id),
            Turn::Unfinished => self.unfinished.push(id),
            Turn::Starved => self.starve(id),
            Turn::Watch(ticket) => self.let_watch(id, ticket),
            Turn::Over(ending) => self.close(id, &ending),
        }
    }

    /// One session's turn: send, execute, parse, receive, until there is nothing more to do or the others should have
    /// theirs.
    fn take_turn(&mut self, id: SessionId) -> Turn {
        let Some(session) = self.sessions.get_mut(id) else { return Turn::Rest };
        let is_idle = session.batch.is_none() && session.rest.is_none() && !session.readable;
        let leaving = self.closing || session.leaving;
        if session.in_flight || (is_idle && !leaving) {
            return Turn::Rest;
        }
        let Some(mut batch) = session.batch.take().or_else(|| self.pool.take()) else { return Turn::Starved };
        batch.session = id;
        if let Some(rest) = session.rest.take() {
            batch.resume(&rest);
        }
        let mut turn = Turn::Unfinished;
        for _ in 0..MOST_STEPS {
            if let Some(slow) = &mut self.slow
                && let Some(done) = batch.done()
            {
                let client = Client { client: session.listed.client, identity: session.transport.identity() };
                slow.look(&done, self.metrics.clock.now(), client, &self.counters, &self.metrics.watch);
            }
            if batch.has_output() {
                if !send(session, &mut batch, &self.counters, &self.metrics, &mut turn) {
                    break;
                }
            } else if !batch.executed.is_empty() {
                // Nobody wanted an answer, or all of it went to the socket at once.
                self.counters.took(self.metrics.clock.now().since(batch.arrived), &mut batch.executed);
            }
            if batch.quit {
                turn = Turn::Over(Ending::Client);
                break;
            }
            if let Some(ticket) = batch.watch.take() {
                turn = Turn::Watch(ticket);
                break;
            }
            match batch.parse(self.protocol) {
                Parsed::Some => match self.storage.execute(batch, session.wire(), &self.counters, &self.metrics) {
                    Submitted::Executed(executed) => {
                        batch = executed;
                        let has_passed = note_passed(session, &mut batch, &self.counters, &self.metrics);
                        if batch.has_commands() && !batch.has_output() && !has_passed {
                            turn = Turn::Starved;
                            break;
                        }
                    }
                    Submitted::InFlight => {
                        session.in_flight = true;
                        return Turn::Rest;
                    }
                },
                Parsed::TooLong => {
                    turn = Turn::Over(Ending::LineTooLong);
                    break;
                }
                Parsed::None => {
                    let storage =
                        |batch: &mut Batch, stream: &mut Transport| self.storage.receive(batch, self.protocol, stream);
                    if !receive(session, &mut batch, storage, &self.counters, self.now, &mut turn) {
                        break;
                    }
                }
            }
        }
        if matches!(turn, Turn::Rest) && batch.is_empty() {
            self.pool.give_back(batch);
            let due = session.transport.due(self.now);
            return if leaving { Turn::Over(self.reason_to_leave(due)) } else { Turn::Rest };
        }
        // Who waits, for the client or for memory, holds as little as it can.
        if matches!(turn, Turn::Rest | Turn::Starved) {
            session.rest = batch.rest();
        }
        if session.rest.is_some() {
            self.pool.give_back(batch)
        } else {
            session.batch = Some(batch)
        }
        turn
    }

    fn starve(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !session.starved {
            session.starved = true;
            self.starved.push_back(id);
            self.metrics.budget.count_waiting(1);
            self.counters.memory_waits.add(1);
        }
    }

    /// Gives a connection away to those that watch.
    fn let_watch(&mut self, id: SessionId, ticket: Ticket) {
        let Some(mut session) = self.sessions.remove(id) else { return };
        if let Some(batch) = session.batch.take() {
            self.pool.give_back(batch);
        }
        self.counters.closed.add(1);
        self.counters.sessions.set(self.sessions.len() as u64);
        match session.transport.deregister(self.poll.registry()) {
            Ok(()) => self.metrics.watch.join(ticket, session.transport, session.listed),
            Err(error) => debug!(%error, "a session that was to watch failed"),
        }
    }

    fn close(&mut self, id: SessionId, ending: &Ending) {
        let Some(mut session) = self.sessions.remove(id) else { return };
        debug!("a session ended: {ending}");
        let client = session.listed.client;
        let gone = || Event::Disconnected { client, reason: ending.word() };
        self.metrics.watch.tell_if_wanted(Streams::CONNECTIONS, gone);
        if ending.is_gentle() {
            self.lingering.finish(session.transport, id.token(), self.now);
        } else {
            session.transport.close();
        }
        match ending {
            Ending::Expired => self.counters.expired_closed.add(1),
            Ending::Aged => self.counters.aged_closed.add(1),
            Ending::Untrusted => self.counters.untrusted_closed.add(1),
            Ending::Tls => self.counters.tls_closed.add(1),
            Ending::Idle => self.counters.idle_closed.add(1),
            Ending::Stalled => self.counters.stalled_closed.add(1),
            _ => {}
        }
        if let Some(mut batch) = session.batch {
            self.storage.abandon(&mut batch);
            self.pool.give_back(batch);
        }
        self.counters.closed.add(1);
        self.counters.sessions.set(self.sessions.len() as u64);
    }

    /// Looks after sessions that nothing is heard of: idle ones, those that stand in the way, and all when the node
    /// closes.
    fn sweep(&mut self) {
        if self.metrics.phase() >= Phase::Closing && !self.closing {
            self.closing = true;
            // What has arrived is still answered: each session has a turn, and ends where that leaves it empty.
            let all: Vec<SessionId> = self.sessions.iter().map(|(id, _)| id).collect();
            for id in all {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.readable = true;
                }
                self.serve(id);
            }
        }
        if self.now.since(self.swept) < SWEEP_US {
            return;
        }
        self.swept = self.now;
        self.measure();
        let others_wait = self.metrics.budget.waiting() > 0;
        if others_wait {
            self.pool.release();
        }
        let overdue: Vec<(SessionId, Ending)> =
            self.sessions.iter().filter_map(|(id, session)| Some((id, self.overdue(session, others_wait)?))).collect();
        for (id, ending) in overdue {
            self.close(id, &ending);
        }
        self.sweep_tls();
    }

    fn overdue(&self, session: &Session, others_wait: bool) -> Option<Ending> {
        let silent = self.now.since(session.active);
        if session.in_flight {
            None
        } else if self.idle_timeout_us.is_some_and(|limit| silent > limit) {
            Some(Ending::Idle)
        } else if others_wait && silent > STALL_US && session.stands_in_the_way() {
            Some(Ending::Stalled)
        } else {
            None
        }
    }

    fn beat(&self) {
        self.counters.rounds.add(1);
        self.counters.heartbeat.set(self.now.micros());
    }
}

/// Sends what there is; says no where the turn is over, with how in `turn`.
fn send(session: &mut Session, batch: &mut Batch, counters: &Counters, metrics: &Metrics, turn: &mut Turn) -> bool {
    let before = batch.unsent();
    let sent = if session.writable { batch.send(&mut session.transport) } else { Sent::Blocked };
    counters.bytes_out.add((before - batch.unsent()) as u64);
    match sent {
        Sent::All => {
            let now = metrics.clock.now();
            session.active = now;
            counters.took(now.since(batch.arrived), &mut batch.executed);
            true
        }
        Sent::Blocked => {
            if batch.unsent() < before {
                session.active = metrics.clock.now();
            }
            session.writable = false;
            session.listed.set_use(Use::Writes);
            *turn = Turn::Rest;
            false
        }
        Sent::Broken(error) => {
            *turn = Turn::Over(Ending::Broken(error));
            false
        }
    }
}

/// Takes account of what execution has passed to the socket; says whether it has.
fn note_passed(session: &mut Session, batch: &mut Batch, counters: &Counters, metrics: &Metrics) -> bool {
    let passed = batch.take_passed();
    if passed > 0 {
        session.active = metrics.clock.now();
        counters.bytes_out.add(passed as u64);
    }
    passed > 0
}

/// Reads what there is; says no where the turn is over, with how in `turn`.
fn receive(
    session: &mut Session,
    batch: &mut Batch,
    read: impl FnOnce(&mut Batch, &mut Transport) -> Received,
    counters: &Counters,
    now: Instant,
    turn: &mut Turn,
) -> bool {
    if session.ended {
        *turn = Turn::Over(Ending::Client);
        return false;
    }
    if !session.readable {
        *turn = Turn::Rest;
        return false;
    }
    match read(batch, &mut session.transport) {
        Received::Bytes { count, drained } => {
            // A short read has emptied the socket, and the next bytes make an event of their own; but the end that was
            // already reported makes none.
            session.readable = !drained || session.ending || session.transport.has_more();
            session.active = now;
            session.listed.hear(now);
            batch.arrived = now;
            counters.bytes_in.add(count as u64);
            if !std::mem::replace(&mut session.begun, true) && session.transport.is_plain() && batch.is_tls() {
                *turn = Turn::Over(Ending::Tls);
                return false;
            }
            true
        }
        Received::Nothing => {
            session.readable = false;
            true
        }
        Received::End => {
            session.ended = true;
            true
        }
        Received::NoMemory => {
            *turn = Turn::Starved;
            false
        }
        Received::Broken(error) => {
            *turn = Turn::Over(Ending::Broken(error));
            false
        }
    }
}

fn protocol(config: &config::Config) -> Protocol {
    match config.protocol {
        config::Protocol::Memcached => {
            Protocol::Memcached(Limits { max_value: usize::try_from(config.max_item_size.0).unwrap_or(usize::MAX) })
        }
        config::Protocol::Ping => Protocol::Ping,
    }
}

/// A poll and its waker.
///
/// # Errors
/// What the system says.
pub fn poll() -> io::Result<(Poll, Arc<Waker>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((poll, Arc::new(waker)))
}
