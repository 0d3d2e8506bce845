//! The log of slow commands: few lines, whatever happens, and a count of all.

use std::fmt::Write;
use std::net::SocketAddr;

use memcache::Streams;
use tracing::warn;

use crate::buffers::Done;
use crate::clock::Instant;
use crate::kind::KINDS;
use crate::metrics::Counters;
use crate::watch::{Event, Watch};

/// Lines that one worker logs in a second; what comes beyond is counted in its next line.
const MOST_LINES: u32 = 10;
/// Bytes of a key that are shown.
const SHOWN_KEY: usize = 100;

/// Who asked.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The address.
    pub client: SocketAddr,
    /// The name in the client's certificate, where it has shown one.
    pub identity: Option<&'a str>,
}

/// One worker's log.
#[derive(Debug)]
pub struct SlowLog {
    limit_us: u64,
    second: u64,
    lines: u32,
    left_out: u64,
}

impl SlowLog {
    /// A log of what takes longer than `limit`; none where that is zero.
    #[must_use]
    pub fn new(limit: config::Duration) -> Option<SlowLog> {
        let limit_us = u64::try_from(limit.0.as_micros()).unwrap_or(u64::MAX);
        (limit_us > 0).then_some(SlowLog { limit_us, second: 0, lines: 0, left_out: 0 })
    }

    /// Looks at commands whose replies are ready now.
    pub fn look(&mut self, done: &Done<'_>, now: Instant, client: Client<'_>, counters: &Counters, watch: &Watch) {
        let us = now.since(done.arrived);
        if us < self.limit_us || done.count == 0 {
            return;
        }
        counters.slow.add(done.count);
        let Client { client, identity } = client;
        let command = KINDS[done.kind as usize].1;
        watch.tell_if_wanted(Streams::SLOW, || Event::Slow { command, key: done.key.into(), micros: us, client });
        if !self.may_write(now) {
            self.left_out += 1;
            return;
        }
        let (left_out, others) = (std::mem::take(&mut self.left_out), done.count - 1);
        warn!(command, key = %shown(done.key), us, %client, identity, others, left_out, "slow command");
    }

    fn may_write(&mut self, now: Instant) -> bool {
        if now.seconds() != self.second {
            (self.second, self.lines) = (now.seconds(), 0);
        }
        self.lines += 1;
        self.lines <= MOST_LINES
    }
}

/// A key as it may stand in a log, whatever is in it.
fn shown(key: &[u8]) -> String {
    let mut text = key[..key.len().min(SHOWN_KEY)].escape_ascii().to_string();
    if key.len() > SHOWN_KEY {
        // Writing to a string cannot fail.
        let written = write!(text, "... ({} bytes)", key.len());
        debug_assert!(written.is_ok());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{MOST_LINES, SlowLog, shown};
    use crate::clock::Clock;

    #[test]
    fn keys_are_escaped_and_bounded() {
        assert_eq!(shown(b"a key\n\xff"), "a key\\n\\xff");
        assert_eq!(shown(&[b'k'; 250]), format!("{}... (250 bytes)", "k".repeat(100)));
    }

    #[test]
    fn a_second_has_few_lines() {
        let mut log = SlowLog::new(config::Duration(std::time::Duration::from_millis(1))).unwrap();
        let now = Clock::start(0).now();
        assert_eq!((0..100).filter(|_| log.may_write(now)).count(), MOST_LINES as usize);
        assert!(SlowLog::new(config::Duration(std::time::Duration::ZERO)).is_none());
    }
}
