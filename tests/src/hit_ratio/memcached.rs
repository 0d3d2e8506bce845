//! A real memcached, driven over loopback.
//!
//! Its clock is the workload's: libfaketime answers its questions for the time out of a file, so that TTLs of days pass in
//! seconds, unchanged, and no request waits. Its memory is measured: the limit (`cache_memlimit`) is raised as long as the
//! resident memory that has come since the server was empty is below the memory it is to have.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};
use crate::hit_ratio::results::Cell;
use crate::hit_ratio::store::Tally;
use crate::hit_ratio::workload::{Operation, Request, Workload};
use crate::process::tied;

const PROGRAM: &str = "memcached";
/// Where Debian's package libfaketime keeps the library for programs of several threads.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const MEBIBYTE: u64 = 1 << 20;
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that stops answering fails the run.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const CLOCK_TIMEOUT: Duration = Duration::from_secs(60);
const CLOCK_POLL: Duration = Duration::from_micros(100);
/// Connections that wake the server's main thread are no closer: were they many, the server would stop to accept, and on
/// a clock that stands would not begin again.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);
/// Requests, and bytes either way, that are under way at most: no more than fits the sockets' buffers, or both sides
/// could wait for each other.
const BATCH_REQUESTS: usize = 64;
const BATCH_BYTES: usize = 100_000;
/// The limit is looked at after so many batches.
const LIMIT_BATCHES: u32 = 200;
/// The first limit is this share of the memory.
const FIRST_LIMIT: f64 = 0.75;
/// memcached does not start with less than twice its largest item.
const LEAST_LIMIT: u64 = 2;
/// On the workload's clock, memcached's own crawler would hardly run: it is started every so many seconds.
const CRAWL_INTERVAL: u64 = 60;
/// TTLs above 30 days are dates.
const LONGEST_RELATIVE: u32 = 60 * 60 * 24 * 30;

/// A server of one run; it ends with this value.
pub struct Memcached {
    process: Child,
    folder: PathBuf,
    port: u16,
    requests: TcpStream,
    replies: BufReader<TcpStream>,
    empty: u64,
}

/// Makes all requests of the workload to a new memcached of `budget` bytes of resident memory.
///
/// # Errors
/// Where memcached or libfaketime is not there, or does not do as it should.
pub fn run(workload: &Workload, budget: u64) -> Outcome<Cell> {
    let limit = ((budget as f64 * FIRST_LIMIT) as u64 / MEBIBYTE).max(LEAST_LIMIT);
    let server = Memcached::start(limit, workload.time(0)).map_err(|failure| failure.while_doing("memcached"))?;
    let mut client = Client {
        workload,
        server,
        batch: Vec::new(),
        bytes: 0,
        under_way: HashMap::new(),
        fills: Vec::new(),
        out: Vec::new(),
        key: Vec::new(),
        value: vec![b'1'; workload.largest_value as usize],
        tally: Tally::default(),
        refused: 0,
        limit,
        budget,
        evicted: 0,
        batches: 0,
        crawled: 0,
        now: workload.time(0),
    };
    client.replay()?;
    let memory = client.server.memory()?;
    let evicted = client.server.statistic("evictions")?;
    let live = client.server.statistic("bytes")?;
    let Tally { reads, misses } = client.tally;
    Ok(Cell { reads, misses, evicted, refused: client.refused, memory, live })
}

/// The version that the installed server names.
///
/// # Errors
/// Where it is not installed.
pub fn version() -> Outcome<String> {
    let output = Command::new(PROGRAM).arg("--version").output().map_err(|error| {
        Failure::new(format!("{PROGRAM}: {error}; install the packages memcached and faketime, or leave memcached out"))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Memcached {
    fn start(limit: u64, now: u64) -> Outcome<Memcached> {
        if !Path::new(FAKETIME).exists() {
            return Err(Failure::new(format!("{FAKETIME} is not there: install the package faketime")));
        }
        let folder = std::env::temp_dir().join(format!("hit-ratio-{}-{now}-{limit}", std::process::id()));
        fs::create_dir_all(&folder)?;
        write_clock(&folder, now)?;
        let (port_file, log) = (folder.join("port"), folder.join("log"));
        let process = tied(PROGRAM)?
            .args(["-u", "root", "-U", "0", "-l", "127.0.0.1", "-p", "-1", "-t", "1", "-m", &limit.to_string()])
            .env("LD_PRELOAD", FAKETIME)
            .env("FAKETIME_TIMESTAMP_FILE", clock(&folder))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_FMT", "%s")
            .env("MEMCACHED_PORT_FILENAME", &port_file)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        // From here on the process ends with the guard, whatever happens.
        let guard = Started { process: Some(process), folder: Some(folder) };
        let port = wait_for_port(&port_file)
            .map_err(|failure| failure.while_doing(fs::read_to_string(&log).unwrap_or_default().trim()))?;
        let requests = TcpStream::connect(("127.0.0.1", port))?;
        requests.set_nodelay(true)?;
        requests.set_read_timeout(Some(REPLY_TIMEOUT))?;
        requests.set_write_timeout(Some(REPLY_TIMEOUT))?;
        let replies = BufReader::new(requests.try_clone()?);
        let (process, folder) = guard.keep()?;
        let mut server = Memcached { process, folder, port, requests, replies, empty: 0 };
        server.statistic("time")?;
        server.empty = server.resident()?;
        Ok(server)
    }

    fn resident(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kibibytes.map(|figure| figure * 1024).ok_or_else(|| Failure::new("the process has no resident memory"))
    }

    /// The resident memory that has come since the server was empty.
    fn memory(&self) -> Outcome<u64> {
        Ok(self.resident()?.saturating_sub(self.empty))
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        let ended = line.trim_end().len();
        line.truncate(ended);
        if line.is_empty() { Err(Failure::new("the server closed the connection")) } else { Ok(line) }
    }

    fn command(&mut self, command: &str) -> Outcome<String> {
        self.requests.write_all(format!("{command}\r\n").as_bytes())?;
        self.line()
    }

    fn statistic(&mut self, name: &str) -> Outcome<u64> {
        self.requests.write_all(b"stats\r\n")?;
        let prefix = format!("STAT {name} ");
        let mut found = None;
        loop {
            let line = self.line()?;
            if line == "END" {
                return found.ok_or_else(|| Failure::new(format!("there is no statistic {name}")));
            }
            if let Some(figure) = line.strip_prefix(&prefix) {
                found = Some(figure.parse()?);
            }
        }
    }

    /// Moves the server's clock. Its main thread looks at the clock when it wakes up: a connection wakes it.
    fn set_clock(&mut self, now: u64) -> Outcome {
        write_clock(&self.folder, now)?;
        let began = Instant::now();
        let mut woken: Option<Instant> = None;
        while began.elapsed() < CLOCK_TIMEOUT {
            if woken.is_none_or(|at| at.elapsed() > WAKE_INTERVAL) {
                drop(TcpStream::connect(("127.0.0.1", self.port))?);
                woken = Some(Instant::now());
            }
            if self.statistic("time")? >= now {
                return Ok(());
            }
            thread::sleep(CLOCK_POLL);
        }
        Err(Failure::new(format!("the clock did not come to {now}")))
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        end(&mut self.process, &self.folder);
    }
}

/// A server that has not been reached yet.
struct Started {
    process: Option<Child>,
    folder: Option<PathBuf>,
}

impl Started {
    fn keep(mut self) -> Outcome<(Child, PathBuf)> {
        self.process.take().zip(self.folder.take()).ok_or_else(|| Failure::new("the server was given away"))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let (Some(process), Some(folder)) = (&mut self.process, &self.folder) {
            end(process, folder);
        }
    }
}

fn end(process: &mut Child, folder: &Path) {
    // Nothing can be done about a process that is gone already, or about a folder in use.
    drop((process.kill(), process.wait(), fs::remove_dir_all(folder)));
}

fn clock(folder: &Path) -> PathBuf {
    folder.join("clock")
}

/// Replaces the file in one go: the server may read it at any time.
fn write_clock(folder: &Path, now: u64) -> Outcome {
    let next = folder.join("next");
    fs::write(&next, format!("{now}\n"))?;
    fs::rename(next, clock(folder))?;
    Ok(())
}

fn wait_for_port(file: &Path) -> Outcome<u16> {
    let began = Instant::now();
    while began.elapsed() < START_TIMEOUT {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some(port) = text.lines().find_map(|line| line.strip_prefix("TCP INET: ")?.trim().parse().ok()) {
            return Ok(port);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(Failure::new(format!("the server named no port in {}", file.display())))
}

/// What a batch has of an object.
#[derive(Clone, Copy)]
struct UnderWay {
    only_reads: bool,
    missed: bool,
}

/// A client that has many requests under way, and yet asks in such an order that every reply is what it would be if it
/// had waited for the one before.
struct Client<'a> {
    workload: &'a Workload,
    server: Memcached,
    /// The requests under way, and which of them count.
    batch: Vec<(Request, bool)>,
    bytes: usize,
    under_way: HashMap<u32, UnderWay>,
    /// Objects that the next batch begins with: they missed.
    fills: Vec<(u32, &'static str)>,
    out: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    tally: Tally,
    refused: u64,
    limit: u64,
    budget: u64,
    evicted: u64,
    batches: u32,
    crawled: u64,
    now: u64,
}

impl Client<'_> {
    fn replay(&mut self) -> Outcome {
        let workload = self.workload;
        for (place, request) in workload.requests.iter().enumerate() {
            let now = workload.time(place);
            if now != self.now {
                self.tick(now)?;
            }
            // Only reads of an object may be under way together: the second of two that miss is counted as the hit that
            // it would be after the write that follows the first.
            let only_reads = request.operation == Operation::Get;
            let earlier = self.under_way.get(&request.object);
            let in_the_way = earlier.is_some_and(|earlier| !(only_reads && earlier.only_reads));
            if in_the_way || self.batch.len() == BATCH_REQUESTS || self.bytes >= BATCH_BYTES {
                self.flush()?;
            }
            self.under_way.insert(request.object, UnderWay { only_reads, missed: false });
            self.bytes += workload.objects[request.object as usize].size() as usize;
            self.batch.push((*request, place >= workload.measured_from));
        }
        self.flush()?;
        self.flush()
    }

    fn tick(&mut self, now: u64) -> Outcome {
        // The second writes what has missed in the first.
        self.flush()?;
        self.flush()?;
        self.now = now;
        self.server.set_clock(now)?;
        if now >= self.crawled + CRAWL_INTERVAL {
            self.crawled = now;
            let reply = self.server.command("lru_crawler crawl all")?;
            if reply != "OK" && !reply.starts_with("BUSY") {
                return Err(Failure::new(format!("lru_crawler crawl all: {reply}")));
            }
        }
        Ok(())
    }

    /// Sends the batch, after the writes that the batch before has left to do, and takes all replies.
    fn flush(&mut self) -> Outcome {
        self.out.clear();
        let fills = std::mem::take(&mut self.fills);
        for (object, verb) in &fills {
            self.push_write(verb, *object);
        }
        let batch = std::mem::take(&mut self.batch);
        for (request, _) in &batch {
            self.push(*request);
        }
        self.server.requests.write_all(&self.out)?;
        for _ in &fills {
            self.take_written()?;
        }
        for (request, counts) in &batch {
            self.take_reply(*request, *counts)?;
        }
        self.batch = batch;
        self.batch.clear();
        self.under_way.clear();
        self.bytes = self.fills.iter().map(|(object, _)| self.workload.objects[*object as usize].size() as usize).sum();
        self.batches += 1;
        if self.batches.is_multiple_of(LIMIT_BATCHES) {
            self.adjust_limit()?;
        }
        Ok(())
    }

    fn push(&mut self, request: Request) {
        let verb = match request.operation {
            Operation::Set => return self.push_write("set", request.object),
            Operation::Add => return self.push_write("add", request.object),
            Operation::Replace => return self.push_write("replace", request.object),
            Operation::Get => "get ",
            Operation::Delete => "delete ",
            Operation::Increment => "incr ",
        };
        self.workload.write_key(request.object, &mut self.key);
        self.out.extend_from_slice(verb.as_bytes());
        self.out.extend_from_slice(&self.key);
        self.out.extend_from_slice(if request.operation == Operation::Increment { b" 1\r\n" } else { b"\r\n" });
    }

    fn push_write(&mut self, verb: &str, object: u32) {
        let drawn = self.workload.objects[object as usize];
        let expiry = if drawn.ttl > LONGEST_RELATIVE { self.now + u64::from(drawn.ttl) } else { drawn.ttl.into() };
        self.workload.write_key(object, &mut self.key);
        self.out.extend_from_slice(verb.as_bytes());
        self.out.push(b' ');
        self.out.extend_from_slice(&self.key);
        self.out.extend_from_slice(format!(" 0 {expiry} {}\r\n", drawn.value).as_bytes());
        self.out.extend_from_slice(&self.value[..drawn.value as usize]);
        self.out.extend_from_slice(b"\r\n");
    }

    fn take_written(&mut self) -> Outcome {
        let line = self.server.line()?;
        match line.as_str() {
            "STORED" | "NOT_STORED" => Ok(()),
            _ if line.starts_with("SERVER_ERROR out of memory") => {
                self.refused += 1;
                Ok(())
            }
            _ => Err(Failure::new(format!("a write was answered {line:?}"))),
        }
    }

    fn take_reply(&mut self, request: Request, counts: bool) -> Outcome {
        match request.operation {
            Operation::Get => {
                let hit = self.take_value()?;
                let earlier = self.under_way.get_mut(&request.object).map(|object| &mut object.missed);
                let misses = !hit && !earlier.is_some_and(|missed| std::mem::replace(missed, true));
                if misses {
                    self.fills.push((request.object, "set"));
                }
                if counts {
                    self.tally.reads += 1;
                    self.tally.misses += u64::from(misses);
                }
                Ok(())
            }
            Operation::Set | Operation::Add | Operation::Replace => self.take_written(),
            Operation::Delete => match self.server.line()?.as_str() {
                "DELETED" | "NOT_FOUND" => Ok(()),
                line => Err(Failure::new(format!("a delete was answered {line:?}"))),
            },
            Operation::Increment => {
                let line = self.server.line()?;
                if line == "NOT_FOUND" {
                    self.fills.push((request.object, "add"));
                } else if line.parse::<u64>().is_err() {
                    return Err(Failure::new(format!("an incr was answered {line:?}")));
                }
                Ok(())
            }
        }
    }

    /// Takes the reply to a get; says whether it brought a value.
    fn take_value(&mut self) -> Outcome<bool> {
        let line = self.server.line()?;
        if line == "END" {
            return Ok(false);
        }
        let length = line.strip_prefix("VALUE ").and_then(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok());
        let length = length.ok_or_else(|| Failure::new(format!("a get was answered {line:?}")))?;
        std::io::copy(&mut (&mut self.server.replies).take(length + 2), &mut std::io::sink())?;
        match self.server.line()?.as_str() {
            "END" => Ok(true),
            line => Err(Failure::new(format!("after a value came {line:?}"))),
        }
    }

    /// Raises the limit while memcached evicts and yet is resident with less than it may be.
    fn adjust_limit(&mut self) -> Outcome {
        let evicted = self.server.statistic("evictions")?;
        let missing = self.budget.saturating_sub(self.server.memory()?);
        if evicted > std::mem::replace(&mut self.evicted, evicted) && missing > 0 {
            self.limit += (missing / MEBIBYTE / 2).max(1);
            let reply = self.server.command(&format!("cache_memlimit {}", self.limit))?;
            if reply != "OK" {
                return Err(Failure::new(format!("cache_memlimit {}: {reply}", self.limit)));
            }
        }
        Ok(())
    }
}
