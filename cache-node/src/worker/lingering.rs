//! Connections that the node has ended, until their clients have heard of it.
//!
//! Closing a socket that holds unread bytes resets the connection, and a client that is reset may lose replies that it has
//! not read yet. So a connection that ends for no fault of the client's is only finished: what the client still sends is
//! dropped, until it closes too or its time is up. A request that is dropped was not executed, so it can be made again.

use std::collections::{HashMap, VecDeque};

use mio::Token;

use crate::clock::Instant;
use crate::transport::Transport;

/// How long a client has to hear of the end: longer than a packet takes to anywhere.
const LONGEST_US: u64 = 1_000_000;
/// Connections that linger at once; those beyond are closed without waiting.
const MOST_LINGERING: usize = 16_384;

/// The connections of one worker that were finished and are not closed yet.
#[derive(Default)]
pub(super) struct Lingering {
    /// By the token under which the kernel goes on to report their readiness.
    transports: HashMap<Token, Transport>,
    /// Their ends, in the order of time; one whose client has closed is in here alone.
    ends: VecDeque<(Instant, Token)>,
}

impl Lingering {
    pub(super) fn is_empty(&self) -> bool {
        self.transports.is_empty()
    }

    /// Finishes a connection of which readiness is reported under `token`.
    pub(super) fn finish(&mut self, mut transport: Transport, token: Token, now: Instant) {
        let is_open = transport.finish().is_ok() && transport.discard();
        if is_open && self.ends.len() < MOST_LINGERING {
            self.transports.insert(token, transport);
            self.ends.push_back((now.after(LONGEST_US), token));
        }
    }

    /// The kernel reports something under this token, which is no session's.
    pub(super) fn hear(&mut self, token: Token) {
        if self.transports.get_mut(&token).is_some_and(|transport| !transport.discard()) {
            self.transports.remove(&token);
        }
    }

    /// Closes those whose time is up.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, token)) = self.ends.pop_front_if(|(end, _)| now >= *end) {
            self.transports.remove(&token);
        }
    }
}
