//! What volumes cost and what they are good for: how soon a node that has ended serves all its items again, beside memcached
//! with its restart file, and what a request costs with a volume and without.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, Memcached, Node};

use crate::usage::Usage;

/// See how soon items are back after a clean end and after a kill, and what a volume costs a request.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Items that come back, in millions
    #[arg(long, value_name = "MILLIONS", value_delimiter = ',', default_values_t = [10_u64, 40])]
    items: Vec<u64>,
    /// Leave out how soon items are back
    #[arg(long)]
    only_costs: bool,
    /// Leave out what requests cost
    #[arg(long)]
    only_restarts: bool,
    /// A folder on a disk, for a volume in a file
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

/// A memory file system that every Linux has.
const MEMORY: &str = "/dev/shm";
const MILLION: u64 = 1_000_000;
const LENGTH: usize = 100;
/// Memory of a node and of memcached for each item, with room to spare: nothing is evicted.
const NODE_BYTES: u64 = 150;
const MEMCACHED_BYTES: u64 = 220;
/// Requests of one write to the socket, without replies; then both sides meet at an `mn`.
const BATCH: u64 = 2000;
/// Restarts of each kind; the median counts.
const RESTARTS: usize = 3;
/// Measurements of a row, in turns; the median counts.
const TURNS: usize = 7;
const TURN: Duration = Duration::from_secs(1);
/// Keys that the requests of a cost are for.
const KEYS: u64 = MILLION;
/// Sets of one pipelined batch.
const PIPELINE: u64 = 100;

/// # Errors
/// Where a server does not start, or ends, or does not answer as it should.
pub fn run(options: &Options) -> Outcome {
    fs::create_dir_all(&options.out)?;
    let mut report = String::new();
    if !options.only_costs {
        restarts(options, &mut report)?;
    }
    if !options.only_restarts {
        costs(options, &mut report)?;
    }
    print!("{report}");
    let file = options.out.join("warm.md");
    fs::write(&file, report).map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

/// A folder for a volume, which goes with the figure.
struct Place(PathBuf);

impl Place {
    fn new(parent: &Path, name: &str) -> Place {
        Place(parent.join(format!("gannet-load-{name}-{}", std::process::id())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn restarts(options: &Options, report: &mut String) -> Outcome {
    writeln!(
        report,
        "Seconds from the start of the process until the first get is answered, all items being there; keys of 14 bytes, values \
         of {LENGTH}, a TTL of an hour; volume and restart file in {MEMORY}; medians of {RESTARTS}.\n\n\
         | server | items | deleted beside them | after a clean end | after SIGKILL |\n|---|---|---|---|---|"
    )?;
    for millions in &options.items {
        for dead in [0, *millions].into_iter().take(if *millions > 10 { 1 } else { 2 }) {
            let (clean, killed) = restart_node(millions * MILLION, dead * MILLION)?;
            eprintln!("cache-node, {millions} M and {dead} M dead: {clean:.2} s, killed {killed:.2} s");
            writeln!(report, "| cache-node | {millions} M | {dead} M | **{clean:.2}** | **{killed:.2}** |")?;
        }
        if *millions <= 10 {
            let clean = restart_memcached(millions * MILLION)?;
            writeln!(report, "| memcached -e | {millions} M | 0 | {clean:.2} | (empty) |")?;
        }
    }
    writeln!(report)?;
    Ok(())
}

/// How soon a node is back after a clean end and after a kill.
fn restart_node(items: u64, dead: u64) -> Outcome<(f64, f64)> {
    let place = Place::new(Path::new(MEMORY), "warm");
    let memory = ((items + dead) * NODE_BYTES) >> 20;
    let lines = format!("memory: {}Mi\ndrainDelay: 0s\nstorage:\n  directory: {}\n", memory + 64, place.0.display());
    let mut node = Node::start(&lines)?;
    let mut client = node.client()?;
    fill(&mut client, items + dead)?;
    // Every other one, so that each segment is half dead.
    delete(&mut client, dead)?;
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..RESTARTS {
        for (signal, seconds) in ["TERM", "KILL"].into_iter().zip(&mut seconds) {
            node.signal(signal)?;
            node.wait()?;
            let began = Instant::now();
            node = Node::start(&lines)?;
            hit(&mut node.client()?)?;
            seconds.push(began.elapsed().as_secs_f64());
            let storage = node.status()?.storage.and_then(|storage| storage.recovery);
            let back = storage.as_ref().map_or(0, |recovery| recovery.items);
            tests::ensure!(back == items, "{back} of {items} items are back: {storage:?}");
            tests::ensure!(storage.is_some_and(|recovery| recovery.from_snapshot == (signal == "TERM")), "no snapshot");
        }
    }
    let [clean, killed] = seconds;
    Ok((median(clean), median(killed)))
}

fn restart_memcached(items: u64) -> Outcome<f64> {
    let place = Place::new(Path::new(MEMORY), "warm");
    fs::create_dir_all(&place.0)?;
    let file = place.0.join("memcached").display().to_string();
    let memory = ((items * MEMCACHED_BYTES) >> 20).to_string();
    let arguments = ["-t", "2", "-m", &memory, "-e", &file];
    let mut server = Memcached::start(&arguments)?;
    let mut client = Client::connect(server.address)?;
    fill(&mut client, items)?;
    let mut seconds = Vec::new();
    for _ in 0..RESTARTS {
        // The signal that asks it to leave its restart file.
        server.end("USR1")?;
        // It does not take a restart file that was left in the same second.
        thread::sleep(Duration::from_secs(2));
        let began = Instant::now();
        server = Memcached::start(&arguments)?;
        hit(&mut Client::connect(server.address)?)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

fn key(number: u64) -> String {
    format!("key:{number:010}")
}

fn hit(client: &mut Client) -> Outcome {
    let value = "v".repeat(LENGTH);
    let answer = format!("VALUE {} 0 {LENGTH}\r\n{value}\r\nEND\r\n", key(1));
    client.expect(format!("get {}\r\n", key(1)).as_bytes(), answer.as_bytes())
}

fn fill(client: &mut Client, items: u64) -> Outcome {
    send_all(client, 0..items, |number| {
        format!("set {} 0 3600 {LENGTH} noreply\r\n{}\r\n", key(number), "v".repeat(LENGTH))
    })
}

fn delete(client: &mut Client, items: u64) -> Outcome {
    send_all(client, 0..items, |number| format!("delete {} noreply\r\n", key(2 * number)))
}

fn send_all(client: &mut Client, numbers: std::ops::Range<u64>, request: impl Fn(u64) -> String) -> Outcome {
    let mut from = numbers.start;
    while from < numbers.end {
        let to = numbers.end.min(from + BATCH);
        let mut text: String = (from..to).map(&request).collect();
        text += "mn\r\n";
        client.expect(text.as_bytes(), b"MN\r\n")?;
        from = to;
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A node whose requests are counted.
struct Candidate {
    name: &'static str,
    node: Node,
    _place: Option<Place>,
    /// Microseconds of the processor for a request, of each kind of load.
    cpu: [Vec<f64>; 2],
    /// Requests a second.
    rate: [Vec<f64>; 2],
}

fn costs(options: &Options, report: &mut String) -> Outcome {
    // A mapped file in memory has small pages on most systems; so must what it is compared with.
    rustix::thread::disable_transparent_huge_pages(true).map_err(std::io::Error::from)?;
    let memory = |storage: &str| format!("memory: 512Mi\n{storage}");
    let on = |parent: &Path, name: &str, durability: &str| {
        let place = Place::new(parent, name);
        (memory(&format!("storage:\n  directory: {}\n  durability: {durability}\n", place.0.display())), place)
    };
    let (shared, disk) = (Path::new(MEMORY), fs::canonicalize(&options.out)?);
    let mut candidates = vec![candidate("anonymous memory", (memory(""), None))?];
    for (name, (lines, place)) in [
        ("tmpfs, None", on(shared, "tmpfs", "None")),
        ("file, None", on(&disk, "none", "None")),
        ("file, Interval of 1 s", on(&disk, "interval", "Interval")),
        ("file, Always", on(&disk, "always", "Always")),
    ] {
        candidates.push(candidate(name, (lines, Some(place)))?);
    }
    for _ in 0..TURNS {
        for candidate in &mut candidates {
            candidate.measure()?;
        }
    }
    writeln!(
        report,
        "Processor time of the node for a request, and requests a second: one connection, {KEYS} keys at random, values of {LENGTH} \
         bytes, all pages of 4 KiB; medians of {TURNS} turns of {} s each.\n\n\
         | items are in | get 9 : set 1, one at a time: us | beside anonymous | requests/s | sets, {PIPELINE} at a time: us | \
         beside anonymous | requests/s |\n|---|---|---|---|---|---|---|",
        TURN.as_secs()
    )?;
    let base = [0, 1].map(|load| median(candidates[0].cpu[load].clone()));
    for Candidate { name, cpu: [single, many], rate: [single_rate, many_rate], .. } in candidates {
        // Turn by turn, so that what the machine does meanwhile is in both.
        let (single, many) = (median(single), median(many));
        writeln!(
            report,
            "| {name} | {single:.2} | {:.2} | {:.0} | {many:.2} | {:.2} | {:.0} |",
            single / base[0],
            median(single_rate),
            many / base[1],
            median(many_rate)
        )?;
    }
    Ok(())
}

fn candidate(name: &'static str, (lines, place): (String, Option<Place>)) -> Outcome<Candidate> {
    let node = Node::start(&lines)?;
    fill(&mut node.client()?, KEYS)?;
    Ok(Candidate { name, node, _place: place, cpu: Default::default(), rate: Default::default() })
}

impl Candidate {
    fn measure(&mut self) -> Outcome {
        let mut client = self.node.client()?;
        let mut random = 1_u64;
        let mut number = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % KEYS
        };
        let value = "w".repeat(LENGTH);
        for load in 0..2 {
            let (before, began, mut requests) = (Usage::of(self.node.id())?, Instant::now(), 0_u64);
            while began.elapsed() < TURN {
                if load == 0 && requests % 10 > 0 {
                    client.send(format!("get {}\r\n", key(number())).as_bytes())?;
                    tests::ensure!(client.line()?.starts_with("VALUE"), "a key is missing");
                    client.skip(LENGTH + 2)?;
                    client.expect_answer(b"END\r\n")?;
                    requests += 1;
                } else {
                    let count = if load == 0 { 1 } else { PIPELINE };
                    let request = |number| format!("set {} 0 3600 {LENGTH}\r\n{value}\r\n", key(number));
                    let text: String = (0..count).map(|_| request(number())).collect();
                    client.expect(text.as_bytes(), "STORED\r\n".repeat(count as usize).as_bytes())?;
                    requests += count;
                }
            }
            let (after, seconds) = (Usage::of(self.node.id())?, began.elapsed().as_secs_f64());
            self.cpu[load].push((after.cpu - before.cpu) as f64 / 1000.0 / requests as f64);
            self.rate[load].push(requests as f64 / seconds);
        }
        Ok(())
    }
}
