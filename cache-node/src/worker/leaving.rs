//! Sessions that TLS puts an end to.

use super::ending::Ending;
use super::{SWEEP_US, Worker};
use crate::session::SessionId;
use crate::transport::Due;

impl Worker {
    /// Why a session that is to leave does so.
    pub(super) fn reason_to_leave(&self, due: Option<Due>) -> Ending {
        match due {
            _ if self.closing => Ending::Drained,
            Some(Due::Expired) => Ending::Expired,
            Some(Due::Aged) | None => Ending::Aged,
        }
    }

    /// Closes sessions of clients that are not let in any more, at once, and those whose time has come, between requests.
    pub(super) fn sweep_tls(&mut self) {
        let Some(tls) = &self.metrics.tls else { return };
        let epoch = tls.identities.epoch();
        if self.trust_epoch != epoch {
            self.trust_epoch = epoch;
            let all = self.sessions.iter();
            let untrusted: Vec<SessionId> =
                all.filter(|(_, session)| !session.transport.is_admitted()).map(|(id, _)| id).collect();
            for id in untrusted {
                self.close(id, &Ending::Untrusted);
            }
        }
        let all = self.sessions.iter();
        let due: Vec<SessionId> =
            all.filter(|(_, session)| session.transport.due(self.now).is_some()).map(|(id, _)| id).collect();
        for id in due {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.leaving = true;
            // Who asks all the time hears of the end together with its next reply, when no request is on its way.
            if self.now.since(session.active) >= SWEEP_US {
                // What has arrived is still answered.
                session.readable = true;
                self.serve(id);
            }
        }
    }
}
