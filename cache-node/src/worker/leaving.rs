//! Sessions that TLS puts an end to.

use super::Worker;
use super::ending::Ending;
use crate::session::SessionId;

impl Worker {
    /// Why a session that is to leave does so.
    pub(super) fn reason_to_leave(&self) -> Ending {
        if self.closing { Ending::Drained } else { Ending::Aged }
    }

    /// Closes sessions of clients that are not let in any more, at once, and those that are old enough, between requests.
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
            all.filter(|(_, session)| session.transport.is_due(self.now)).map(|(id, _)| id).collect();
        for id in due {
            if let Some(session) = self.sessions.get_mut(id) {
                // What has arrived is still answered.
                (session.leaving, session.readable) = (true, true);
            }
            self.serve(id);
        }
    }
}
