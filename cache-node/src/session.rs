//! One connection, and all connections of a worker.

use std::io::Write;

use mio::Token;
use slab::Slab;

use crate::buffers::{Batch, Rest};
use crate::clock::Instant;
use crate::connections::Listed;
use crate::transport::Transport;

/// Names a session for as long as the worker lives: slots are used again, pairs of slot and generation are not (not
/// before four thousand million connections to one worker).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionId {
    slot: u32,
    generation: u32,
}

impl SessionId {
    /// The token under which the session's readiness is reported.
    #[must_use]
    pub fn token(self) -> Token {
        Token((self.generation as usize) << 32 | self.slot as usize)
    }

    /// The session that this token was made of.
    #[must_use]
    pub fn of(token: Token) -> SessionId {
        SessionId { slot: token.0 as u32, generation: (token.0 >> 32) as u32 }
    }
}

/// One connection. It is small, because most of ten thousand are idle: buffers are held only while there is something
/// in them.
pub struct Session {
    /// Its byte stream.
    pub transport: Transport,
    /// Its place in the list of all connections.
    pub listed: Listed,
    /// What was received and is to be sent; none while the session is idle or the batch is with the storage thread.
    pub batch: Option<Box<Batch>>,
    /// The beginning of a request, instead of a batch.
    pub rest: Option<Box<Rest>>,
    /// The batch is with the storage thread.
    pub in_flight: bool,
    /// There may be bytes to read: set by an event, cleared by a read that found fewer than it asked for.
    pub readable: bool,
    /// The socket may take bytes: set by an event, cleared by a write that could not.
    pub writable: bool,
    /// The kernel has reported that the client closed its half; what it sent before is still to be read.
    pub ending: bool,
    /// The client's last byte was read. Its requests are still answered.
    pub ended: bool,
    /// It waits for buffer memory and is in the worker's list of those.
    pub starved: bool,
    /// It ends as soon as it is between two requests.
    pub leaving: bool,
    /// The client has sent something.
    pub begun: bool,
    /// When bytes last went either way.
    pub active: Instant,
    generation: u32,
}

impl Session {
    /// Whether nothing of this connection is on its way: no request has begun, and no reply is missing.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        let holds_nothing = self.batch.is_none() && self.rest.is_none() && !self.in_flight;
        holds_nothing && !self.readable && !self.ending && !self.ended && !self.starved
    }

    /// Whether it holds what others may wait for. One that waits itself is waited for only where it has got a part of
    /// what it needs: two of those could wait for each other.
    pub fn stands_in_the_way(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| !self.starved || batch.has_grown())
    }

    /// Where large values can be passed to: the socket, while it takes bytes.
    pub fn wire(&mut self) -> Option<&mut dyn Write> {
        if self.writable { Some(&mut self.transport) } else { None }
    }
}

/// The sessions of one worker.
#[derive(Default)]
pub struct Sessions {
    slots: Slab<Session>,
    next_generation: u32,
}

impl Sessions {
    /// The number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a session of this `transport`.
    pub fn insert(&mut self, transport: Transport, listed: Listed, now: Instant) -> SessionId {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let session = Session {
            // A handshake may have brought more than itself.
            readable: transport.has_more(),
            transport,
            listed,
            batch: None,
            rest: None,
            in_flight: false,
            writable: true,
            ending: false,
            ended: false,
            starved: false,
            leaving: false,
            begun: false,
            active: now,
            generation,
        };
        SessionId { slot: self.slots.insert(session) as u32, generation }
    }

    /// The session, unless it has ended, whoever has its slot now.
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(id.slot as usize).filter(|session| session.generation == id.generation)
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.get_mut(id)?;
        self.slots.try_remove(id.slot as usize)
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        let id = |slot, session: &Session| SessionId { slot: slot as u32, generation: session.generation };
        self.slots.iter().map(move |(slot, session)| (id(slot, session), session))
    }
}
