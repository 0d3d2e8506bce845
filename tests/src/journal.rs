//! A random load on keys that are their client's alone, with a journal of what was acknowledged: what a node has when it is
//! back is compared with that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Outcome};
use crate::node::Client;

/// Few keys, so that each has a history, and the segments are full of what is dead.
const KEYS: u64 = 150;
const LARGEST: u64 = 20_000;
/// Requests that a client has on their way at once, at most.
const MOST_PENDING: u64 = 8;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: String,
    /// The seconds of the clock between which it ends: until the first it is there, and behind the last it is not.
    ends: Option<(u64, u64)>,
}

/// What a node has to have when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// All that was acknowledged, as it was.
    Everything,
    /// Of each key what it was at some time in the last so many seconds before the node's end, or nothing.
    NothingOlder(Duration),
    /// Not one item.
    Nothing,
}

/// What a client was told.
pub struct Journal {
    client: u64,
    random: Random,
    /// The seconds that items are given, 0 for ever.
    ttls: &'static [u64],
    acknowledged: HashMap<u64, Known>,
    /// What keys were in this life of the node, and when they had become something else.
    past: Vec<(Instant, u64, Option<Known>)>,
    /// What was asked for and not answered, in order.
    pending: Vec<(u64, Change)>,
    writes: u64,
}

/// Has every client change its keys while `act` is done, which is to end the node.
///
/// # Errors
/// That of `act`, or what a client was answered that it should not have been.
pub fn while_working(journals: &mut [Journal], address: SocketAddr, act: impl FnOnce() -> Outcome) -> Outcome {
    thread::scope(|scope| {
        let clients: Vec<_> =
            journals.iter_mut().map(|journal| scope.spawn(move || journal.work_until_the_end(address))).collect();
        let acted = act();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        ended.into_iter().try_for_each(|ended| ended.unwrap_or_else(|_| Err(Failure::new("a client panicked"))))?;
        acted
    })
}

/// Compares all that the node has with the journals; returns how many items it has.
///
/// # Errors
/// The key, what it is and what it could be.
pub fn check_all(journals: &mut [Journal], address: SocketAddr, expected: Expected) -> Outcome<usize> {
    let mut client = Client::connect(address)?;
    let ended = Instant::now();
    let mut items = 0;
    for journal in journals {
        items += journal.check(&mut client, expected, ended)?;
    }
    Ok(items)
}

/// What a request makes of a key.
#[derive(Clone, Debug)]
enum Change {
    /// With the seconds that it is given.
    Set(Known, u64),
    Append(String),
    Increment,
    Delete,
}

impl Change {
    fn of(&self, before: Option<&Known>) -> Option<Known> {
        match self {
            Change::Set(known, _) => Some(known.clone()),
            Change::Append(text) => {
                before.map(|known| Known { value: format!("{}{text}", known.value), ..known.clone() })
            }
            Change::Increment => before.map(|known| {
                let value = known.value.trim_end().parse::<u64>().map(|number| (number + 1).to_string());
                Known { value: value.unwrap_or_else(|_| known.value.clone()), ..known.clone() }
            }),
            Change::Delete => None,
        }
    }
}

impl Journal {
    /// The journal of a client that knows of nothing yet.
    #[must_use]
    pub fn new(client: u64, seed: u64, ttls: &'static [u64]) -> Journal {
        let random = Random(seed ^ ((client + 1) << 32));
        let (acknowledged, past, pending) = (HashMap::new(), Vec::new(), Vec::new());
        Journal { client, random, ttls, acknowledged, past, pending, writes: 0 }
    }

    /// How many changes were acknowledged since the last comparison.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.past.len()
    }

    fn key(&self, number: u64) -> String {
        format!("client-{}-key-{number}", self.client)
    }

    /// Changes keys until the node is gone.
    fn work_until_the_end(&mut self, address: SocketAddr) -> Outcome {
        // The node may be gone already.
        let Ok(mut client) = Client::connect(address) else { return Ok(()) };
        loop {
            let mut request = String::new();
            for _ in 0..=self.random.below(MOST_PENDING) {
                request += &self.ask();
            }
            if client.send(request.as_bytes()).is_err() {
                return Ok(());
            }
            while let Some((key, change)) = self.pending.first().cloned() {
                let Ok(line) = client.line() else { return Ok(()) };
                let refused = ["ERROR", "SERVER_ERROR", "CLIENT_ERROR"].iter().any(|word| line.starts_with(word));
                crate::ensure!(!refused, "{} {change:?} is answered with {line}", self.key(key));
                self.pending.remove(0);
                self.apply(key, &change);
            }
        }
    }

    /// A request, which is pending from now on.
    fn ask(&mut self) -> String {
        let number = self.random.below(KEYS);
        let key = self.key(number);
        self.writes += 1;
        // The first keys are counters.
        let is_counter = number < KEYS / 10;
        let (change, request) = match self.random.below(10) {
            0 => (Change::Delete, format!("delete {key}\r\n")),
            1 if !is_counter && self.length_of(number) < LARGEST => {
                let text = format!("+{}", self.writes);
                (Change::Append(text.clone()), format!("append {key} 0 0 {}\r\n{text}\r\n", text.len()))
            }
            1..=5 if is_counter => (Change::Increment, format!("incr {key} 1\r\n")),
            _ => {
                let value = if is_counter { format!("{:06}", self.writes % 1000) } else { self.value(&key) };
                let ttl = self.ttls[self.random.below(self.ttls.len() as u64) as usize];
                let now = now();
                let ends = (ttl > 0).then_some((now + ttl, u64::MAX));
                let request = format!("set {key} 0 {ttl} {}\r\n{value}\r\n", value.len());
                (Change::Set(Known { value, ends }, ttl), request)
            }
        };
        self.pending.push((number, change));
        request
    }

    fn length_of(&self, number: u64) -> u64 {
        let pending = self.pending.iter().filter(|(key, _)| *key == number).count() as u64;
        self.acknowledged.get(&number).map_or(0, |known| known.value.len() as u64) + pending * LARGEST
    }

    /// A value that tells whose it is, and which: mostly short, often as long as the one before.
    fn value(&mut self, key: &str) -> String {
        let length = match self.random.below(8) {
            0 => self.random.below(LARGEST),
            1 | 2 => self.random.below(1000),
            _ => 50,
        };
        let mut value = format!("{key}:{:010}:", self.writes);
        while (value.len() as u64) < length {
            value.push(char::from(b'a' + (self.random.below(26)) as u8));
        }
        value
    }

    /// Notes that a change has happened, by now.
    fn apply(&mut self, key: u64, change: &Change) {
        self.past.push((Instant::now(), key, self.acknowledged.get(&key).cloned()));
        match change.of(self.acknowledged.get(&key)) {
            None => drop(self.acknowledged.remove(&key)),
            Some(mut known) => {
                if let (Change::Set(_, ttl), Some((_, last))) = (change, &mut known.ends) {
                    *last = now() + ttl + 3;
                }
                self.acknowledged.insert(key, known);
            }
        }
    }

    /// Compares all keys; returns how many are there. What was pending is settled by what is there.
    fn check(&mut self, client: &mut Client, expected: Expected, ended: Instant) -> Outcome<usize> {
        let (pending, past) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.past));
        let mut items = 0;
        for number in 0..KEYS {
            let before = now();
            let found = get(client, &self.key(number))?;
            let after = now();
            let mut possible = vec![self.acknowledged.get(&number).cloned()];
            for (_, change) in pending.iter().filter(|(key, _)| *key == number) {
                let last = possible.last().and_then(Option::as_ref);
                possible.push(change.of(last));
            }
            if possible.len() > 1 {
                // What was being written may be missing.
                possible.push(None);
            }
            match expected {
                Expected::Everything => {}
                Expected::NothingOlder(limit) => {
                    let is_recent = |at: &Instant| ended.duration_since(*at) <= limit;
                    let states = past.iter().filter(|(at, key, _)| *key == number && is_recent(at));
                    possible.extend(states.map(|(_, _, known)| known.clone()).chain([None]));
                }
                Expected::Nothing => possible = vec![None],
            }
            let agrees = |known: &Option<Known>| match (known, &found) {
                (None, found) => found.is_none(),
                (Some(known), None) => known.ends.is_some_and(|(first, _)| first < after),
                (Some(known), Some(value)) => {
                    let may_be_there = known.ends.is_none_or(|(_, last)| before <= last);
                    may_be_there && known.value.trim_end() == value.trim_end()
                }
            };
            let Some(settled) = possible.iter().find(|known| agrees(known)) else {
                return Err(Failure::new(format!(
                    "{} is {:?} and should be one of {:?}",
                    self.key(number),
                    found.map(shortened),
                    possible
                        .into_iter()
                        .map(|known| known.map(|known| (shortened(known.value), known.ends)))
                        .collect::<Vec<_>>()
                )));
            };
            items += usize::from(found.is_some());
            match settled.clone().filter(|_| found.is_some()) {
                Some(known) => drop(self.acknowledged.insert(number, known)),
                None => drop(self.acknowledged.remove(&number)),
            }
        }
        Ok(items)
    }
}

fn get(client: &mut Client, key: &str) -> Outcome<Option<String>> {
    client.send(format!("get {key}\r\n").as_bytes())?;
    let line = client.line()?;
    if line == "END" {
        return Ok(None);
    }
    crate::ensure!(line.starts_with("VALUE "), "get {key} is answered with {line}");
    let value = client.line()?;
    client.expect_answer(b"END\r\n")?;
    Ok(Some(value))
}

fn shortened(text: String) -> String {
    text.chars().take(60).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `SplitMix64`: the same seed gives the same rounds, as far as the machine's own timing allows.
pub struct Random(u64);

impl Random {
    /// The numbers that follow from this one.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit
    }
}
