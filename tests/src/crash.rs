//! A node that is killed at random moments under a random load, and journals of what it had acknowledged: what it has
//! afterwards is that, whatever the moment.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Outcome};
use crate::node::{Client, Node};

/// Clients at once, each with keys of its own.
const CLIENTS: u64 = 4;
/// Few keys, so that each has a history, and the segments are full of what is dead.
const KEYS: u64 = 150;
const LARGEST: u64 = 20_000;
/// Requests that a client has on their way at once, at most.
const MOST_PENDING: u64 = 8;
/// A node lives for so many milliseconds of load.
const SHORTEST_LIFE: u64 = 5;
const LONGEST_LIFE: u64 = 60;
/// Small enough that the node compacts all the time, large enough that it never has to refuse a write.
const CONFIGURATION: &str = "memory: 32Mi\nmaxItemSize: 64Ki\neviction: None\n";

/// Kills a node with its volume in `directory` so many times, and compares what it then has with the journals.
///
/// # Errors
/// What is wrong: with the round, the key, what was acknowledged and what was found.
pub fn rounds(directory: &Path, count: u64, seed: u64) -> Outcome {
    let mut journals: Vec<_> = (0..CLIENTS).map(|client| Journal::new(client, seed)).collect();
    let mut random = Random(seed);
    for round in 0..count {
        let mut node = start(directory)?;
        let items = check(&node, &mut journals).map_err(|failure| failure.while_doing(format!("round {round}")))?;
        crate::ensure!(round == 0 || items > 0, "round {round}: nothing came back:\n{}", node.log());
        let life = Duration::from_millis(SHORTEST_LIFE + random.below(LONGEST_LIFE - SHORTEST_LIFE));
        let running = &node;
        thread::scope(|scope| {
            let clients: Vec<_> =
                journals.iter_mut().map(|journal| scope.spawn(move || journal.work_until_the_end(running))).collect();
            thread::sleep(life);
            let killed = running.signal("KILL");
            let ended = clients.into_iter().map(|client| client.join());
            ended.into_iter().try_for_each(|ended| ended.unwrap_or_else(|_| Err(Failure::new("a client panicked"))))?;
            killed
        })?;
        node.wait()?;
    }
    let node = start(directory)?;
    check(&node, &mut journals).map(drop)
}

fn start(directory: &Path) -> Outcome<Node> {
    Node::start(&format!("{CONFIGURATION}storage:\n  directory: {}\n", directory.display()))
}

/// Compares all that the node has with the journals; returns how many items it has.
fn check(node: &Node, journals: &mut [Journal]) -> Outcome<usize> {
    let mut client = node.client()?;
    let mut items = 0;
    for journal in journals {
        items += journal.check(&mut client)?;
    }
    Ok(items)
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: String,
    /// The seconds of the clock between which it ends: until the first it is there, and behind the last it is not.
    ends: Option<(u64, u64)>,
}

/// What a client was told.
struct Journal {
    client: u64,
    random: Random,
    acknowledged: HashMap<u64, Known>,
    /// What was asked for and not answered, in order.
    pending: Vec<(u64, Change)>,
    writes: u64,
}

/// What a request makes of a key.
#[derive(Clone, Debug)]
enum Change {
    Set(Known),
    Append(String),
    Increment,
    Delete,
}

impl Change {
    fn of(&self, before: Option<&Known>) -> Option<Known> {
        match self {
            Change::Set(known) => Some(known.clone()),
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
    fn new(client: u64, seed: u64) -> Journal {
        let random = Random(seed ^ (client + 1) << 32);
        Journal { client, random, acknowledged: HashMap::new(), pending: Vec::new(), writes: 0 }
    }

    fn key(&self, number: u64) -> String {
        format!("client-{}-key-{number}", self.client)
    }

    /// Changes keys until the node is gone.
    fn work_until_the_end(&mut self, node: &Node) -> Outcome {
        // The node may be gone already.
        let Ok(mut client) = node.client() else { return Ok(()) };
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
                let ttl = [0, 0, 0, 1, 2, 1000][self.random.below(6) as usize];
                let now = now();
                let ends = (ttl > 0).then_some((now + ttl, u64::MAX));
                let request = format!("set {key} 0 {ttl} {}\r\n{value}\r\n", value.len());
                (Change::Set(Known { value, ends }), request)
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
        match change.of(self.acknowledged.get(&key)) {
            None => drop(self.acknowledged.remove(&key)),
            Some(mut known) => {
                if let (Change::Set(_), Some((_, last))) = (change, &mut known.ends) {
                    *last = now() + 3;
                }
                self.acknowledged.insert(key, known);
            }
        }
    }

    /// Compares all keys; returns how many are there. What was pending is settled by what is there.
    fn check(&mut self, client: &mut Client) -> Outcome<usize> {
        let pending = std::mem::take(&mut self.pending);
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
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit
    }
}
