//! How a worker's sessions come from other workers, and go to them.

use tracing::debug;

use super::ending::Ending;
use super::{SWEEP_US, Worker};
use crate::balance::{Balance, MOST_MOVES, Moved};
use crate::connections::Listed;
use crate::session::{Session, SessionId};
use crate::transport::Transport;

impl Worker {
    /// Takes over what other workers have handed over.
    pub(super) fn take_over_moved(&mut self) {
        for _ in 0..MOST_MOVES {
            let Some(Moved { transport, listed }) = self.balance.as_ref().and_then(Balance::arrival) else { return };
            self.take_over(transport, listed);
            self.counters.moved_in.add(1);
            self.metrics.end_move();
        }
    }

    /// Finds out whether others have much less to do.
    pub(super) fn measure(&mut self) {
        let Some(balance) = &mut self.balance else { return };
        let is_active = |session: &Session| self.now.since(session.active) < SWEEP_US;
        let active = self.sessions.iter().filter(|(_, session)| is_active(session)).count();
        balance.measure(self.now, active, &self.counters);
    }

    /// A connection becomes a session of this worker.
    pub(super) fn take_over(&mut self, transport: Transport, listed: Listed) {
        let id = self.sessions.insert(transport, listed, self.now);
        let Some(session) = self.sessions.get_mut(id) else { return };
        // What has arrived meanwhile is reported as well.
        if let Err(error) = session.transport.register(self.poll.registry(), id.token()) {
            self.close(id, &Ending::Broken(error));
        } else if !session.transport.is_admitted() {
            self.close(id, &Ending::Untrusted);
        } else if session.readable {
            self.serve(id);
        }
    }

    /// Hands a session that is between two requests over to a worker with less to do, if some are to move.
    pub(super) fn hand_over(&mut self, id: SessionId) {
        let Some(balance) = self.balance.as_mut().filter(|balance| balance.has_moves()) else { return };
        if !self.sessions.get_mut(id).is_some_and(|session| session.is_between_requests()) || !self.metrics.begin_move()
        {
            return;
        }
        let Some(mut session) = self.sessions.remove(id) else { return self.metrics.end_move() };
        if let Err(error) = session.transport.deregister(self.poll.registry()) {
            debug!(%error, "a session ended on its way to another worker");
            self.counters.closed.add(1);
            return self.metrics.end_move();
        }
        let Session { transport, listed, .. } = session;
        match balance.hand_over(Moved { transport, listed }) {
            None => self.counters.moved_out.add(1),
            Some(Moved { transport, listed }) => {
                self.take_over(transport, listed);
                self.metrics.end_move();
            }
        }
        self.counters.sessions.set(self.sessions.len() as u64);
    }
}
