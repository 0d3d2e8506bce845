//! What is counted and timed, by one thread for itself; added up at the end.

use std::collections::BTreeMap;

use hdrhistogram::{CreationError, Histogram};

use crate::reply::{Outcome, Pending};
use crate::request::Kind;

/// Nanoseconds. Latencies are kept to three digits.
const SHORTEST: u64 = 100;
const LONGEST: u64 = 600_000_000_000;
const DIGITS: u8 = 3;
/// Different error texts that are kept; more are counted as others.
const TEXTS: usize = 20;
/// The timeline ends after a day; later seconds are not listed.
const SECONDS: usize = 86_400;

/// What became of requests of one kind.
#[derive(Debug, Default)]
pub struct KindTally {
    /// Answered within the window.
    pub answered: u64,
    /// Keys asked for by these.
    pub keys: u64,
    pub hits: u64,
    pub absent: u64,
    pub refused: u64,
    pub latency: Option<Histogram<u64>>,
}

/// What went wrong, outside of replies that say so.
#[derive(Debug, Default)]
pub struct Errors {
    /// Connections that could not be made.
    pub connects: u64,
    /// Connections that were lost, and the requests lost with them.
    pub disconnects: u64,
    pub lost: u64,
    /// Connections given up for a reply that took too long.
    pub timeouts: u64,
    /// Replies that are wrong.
    pub violations: u64,
    /// Requests that were due while there was no connection to send them on.
    pub unsent: u64,
    /// Requests that were due in the window and had no reply at its end, nor a while later.
    pub unfinished: u64,
    /// Connections that were made again.
    pub reconnects: u64,
    /// Requests that were asked once more, on the connection after the one that left them without a reply.
    pub resent: u64,
    /// What was said, and how often.
    pub texts: BTreeMap<String, u64>,
}

/// One second of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    pub answered: u64,
    pub failed: u64,
    pub longest: u64,
}

/// Counts of one thread, or of all.
#[derive(Debug)]
pub struct Tally {
    /// Nanoseconds since the start: what is counted.
    pub from: u64,
    pub until: u64,
    /// Whether a request belongs to the window by when it was due (open loop) or by when it was answered.
    pub by_due: bool,
    pub kinds: [KindTally; Kind::ALL.len()],
    pub errors: Errors,
    pub seconds: Vec<Second>,
    pub received: u64,
    pub sent: u64,
    /// All replies, also outside of the window: for progress.
    pub replies: u64,
    /// What histograms are copies of.
    blank: Histogram<u64>,
}

impl Tally {
    /// # Errors
    /// Where the histogram's bounds are refused, which would be a mistake in this file.
    pub fn new() -> Result<Tally, CreationError> {
        Ok(Tally {
            blank: Histogram::new_with_bounds(SHORTEST, LONGEST, DIGITS)?,
            from: 0,
            until: 0,
            by_due: false,
            kinds: Default::default(),
            errors: Errors::default(),
            seconds: Vec::new(),
            received: 0,
            sent: 0,
            replies: 0,
        })
    }

    /// A reply came at `now`.
    pub fn reply(&mut self, asked: &Pending, outcome: &Outcome, now: u64) {
        self.replies += 1;
        let in_window = (self.from..self.until).contains(&now);
        let kind = &mut self.kinds[asked.kind as usize];
        if in_window {
            kind.answered += 1;
            kind.keys += u64::from(asked.keys);
            match outcome {
                Outcome::Done { hits } => {
                    kind.hits += u64::from(*hits);
                    if asked.kind.reads() && *hits < asked.keys {
                        kind.absent += u64::from(asked.keys - hits);
                    }
                }
                Outcome::Absent => kind.absent += u64::from(asked.keys),
                Outcome::Refused(_) => kind.refused += 1,
            }
        }
        if let Outcome::Refused(text) = outcome {
            self.failure(text, now);
        }
        let latency = now.saturating_sub(asked.due);
        if in_window && let Some(second) = self.second(now) {
            second.answered += 1;
            second.longest = second.longest.max(latency);
        }
        if (self.by_due && (self.from..self.until).contains(&asked.due)) || (!self.by_due && in_window) {
            self.record(asked.kind, latency);
        }
    }

    /// A request that was due in the window has no reply at `now`, and will have none that is waited for.
    pub fn give_up(&mut self, kind: Kind, due: u64, now: u64) {
        if self.by_due && (self.from..self.until).contains(&due) {
            self.errors.unfinished += 1;
            self.record(kind, now.saturating_sub(due));
        }
    }

    /// Something went wrong; `text` says what.
    pub fn failure(&mut self, text: &str, now: u64) {
        if self.errors.texts.len() < TEXTS || self.errors.texts.contains_key(text) {
            *self.errors.texts.entry(text.to_owned()).or_default() += 1;
        } else {
            *self.errors.texts.entry("others".to_owned()).or_default() += 1;
        }
        if let Some(second) = self.second(now) {
            second.failed += 1;
        }
    }

    fn record(&mut self, kind: Kind, latency: u64) {
        let histogram = &mut self.kinds[kind as usize].latency;
        histogram.get_or_insert_with(|| self.blank.clone()).saturating_record(latency);
    }

    fn second(&mut self, now: u64) -> Option<&mut Second> {
        if self.until == 0 || now < self.from {
            return None;
        }
        let index = ((now - self.from) / 1_000_000_000) as usize;
        if index >= SECONDS {
            return None;
        }
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        self.seconds.get_mut(index)
    }

    /// Adds what another thread counted.
    pub fn add(&mut self, other: Tally) {
        let Tally { from, until, by_due, kinds, errors, seconds, received, sent, replies, blank } = other;
        (self.from, self.until, self.by_due) = (from, until, by_due);
        self.received += received;
        self.sent += sent;
        self.replies += replies;
        for (mine, theirs) in self.kinds.iter_mut().zip(kinds) {
            mine.add(theirs, &blank);
        }
        self.errors.add(errors);
        if self.seconds.len() < seconds.len() {
            self.seconds.resize(seconds.len(), Second::default());
        }
        for (mine, theirs) in self.seconds.iter_mut().zip(seconds) {
            mine.answered += theirs.answered;
            mine.failed += theirs.failed;
            mine.longest = mine.longest.max(theirs.longest);
        }
    }

    /// The latencies of all kinds together.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = self.blank.clone();
        for histogram in self.kinds.iter().filter_map(|kind| kind.latency.as_ref()) {
            add_histogram(&mut all, histogram);
        }
        all
    }

    pub fn answered(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.answered).sum()
    }

    /// Keys, where requests for several count as many.
    pub fn keys(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.keys).sum()
    }

    pub fn refused(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.refused).sum()
    }

    /// Hits and misses of reads, in keys.
    pub fn reads(&self) -> (u64, u64) {
        let reads = || Kind::ALL.iter().zip(&self.kinds).filter(|(kind, _)| kind.reads()).map(|(_, tally)| tally);
        (reads().map(|kind| kind.hits).sum(), reads().map(|kind| kind.absent).sum())
    }
}

impl KindTally {
    fn add(&mut self, other: KindTally, blank: &Histogram<u64>) {
        let KindTally { answered, keys, hits, absent, refused, latency } = other;
        self.answered += answered;
        self.keys += keys;
        self.hits += hits;
        self.absent += absent;
        self.refused += refused;
        if let Some(theirs) = latency {
            add_histogram(self.latency.get_or_insert_with(|| blank.clone()), &theirs);
        }
    }
}

impl Errors {
    fn add(&mut self, other: Errors) {
        let Errors { connects, disconnects, lost, timeouts, violations, unsent, unfinished, reconnects, resent, texts } =
            other;
        self.connects += connects;
        self.disconnects += disconnects;
        self.lost += lost;
        self.timeouts += timeouts;
        self.violations += violations;
        self.unsent += unsent;
        self.unfinished += unfinished;
        self.reconnects += reconnects;
        self.resent += resent;
        for (text, count) in texts {
            *self.texts.entry(text).or_default() += count;
        }
    }

    /// Requests that came to nothing, without those that were refused by a reply.
    pub fn failed(&self) -> u64 {
        self.lost + self.unsent + self.unfinished
    }
}

fn add_histogram(all: &mut Histogram<u64>, more: &Histogram<u64>) {
    for value in more.iter_recorded() {
        all.saturating_record_n(value.value_iterated_to(), value.count_at_value());
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::reply::{Outcome, Pending};
    use crate::request::Kind;

    const SECOND: u64 = 1_000_000_000;

    fn asked(due: u64) -> Pending {
        Pending { kind: Kind::Get, id: 0, keys: 1, due }
    }

    fn window(by_due: bool) -> Tally {
        Tally { from: SECOND, until: 11 * SECOND, by_due, ..Tally::new().unwrap() }
    }

    /// A server that answers in 1 ms, 1000 requests a second, and stalls for 1 s: the requests that were due in the stall
    /// waited for 0 to 1 s, and a tenth of all requests did.
    #[test]
    fn a_stall_is_charged_to_every_request_that_was_due_in_it() {
        let mut tally = window(true);
        for index in 0..10_000 {
            let due = SECOND + index * 1_000_000;
            let stall = 5 * SECOND..6 * SECOND;
            let answered = if stall.contains(&due) { stall.end } else { due + 1_000_000 };
            tally.reply(&asked(due), &Outcome::Done { hits: 1 }, answered);
        }
        let latency = tally.latency();
        assert_eq!(latency.len(), 10_000);
        let close = |quantile: f64, milliseconds: f64| {
            let found = latency.value_at_quantile(quantile) as f64 / 1e6;
            assert!((found - milliseconds).abs() < milliseconds * 0.01 + 1.0, "{quantile}: {found} ms");
        };
        close(0.5, 1.0);
        close(0.9, 1.0);
        close(0.95, 500.0);
        close(0.99, 900.0);
        close(1.0, 1000.0);
    }

    #[test]
    fn a_request_belongs_to_the_window_by_when_it_was_due_in_an_open_loop() {
        let (mut open, mut closed) = (window(true), window(false));
        for tally in [&mut open, &mut closed] {
            // Due before the window and answered in it; due in it and answered after it.
            tally.reply(&asked(SECOND / 2), &Outcome::Done { hits: 1 }, 2 * SECOND);
            tally.reply(&asked(10 * SECOND), &Outcome::Done { hits: 1 }, 12 * SECOND);
            tally.give_up(Kind::Get, 10 * SECOND, 13 * SECOND);
        }
        assert_eq!((open.latency().len(), open.errors.unfinished), (2, 1));
        assert!(open.latency().max() > 2 * SECOND);
        assert_eq!((closed.latency().len(), closed.latency().max() / SECOND), (1, 1));
        assert_eq!((open.answered(), closed.answered()), (1, 1));
    }

    #[test]
    fn threads_add_up() {
        let mut all = Tally::new().unwrap();
        for hits in [1, 0] {
            let mut tally = window(false);
            let outcome = if hits == 1 { Outcome::Done { hits } } else { Outcome::Absent };
            tally.reply(&asked(SECOND), &outcome, 2 * SECOND);
            tally.reply(&asked(SECOND), &Outcome::Refused("ERROR".to_owned()), 2 * SECOND);
            all.add(tally);
        }
        assert_eq!((all.answered(), all.reads(), all.refused(), all.replies), (4, (1, 1), 2, 4));
        assert_eq!(all.errors.texts.get("ERROR"), Some(&2));
        assert_eq!((all.seconds[1].answered, all.seconds[1].failed), (4, 2));
    }
}
