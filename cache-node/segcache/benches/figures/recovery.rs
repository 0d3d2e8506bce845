//! How long it takes until the items of a volume in memory are back, beside memcached with its restart file.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use segcache::{Cache, Deadline, Eviction, OnMismatch, RecoveryProgress, Settings, VolumeSettings};

use crate::{NOW, key};

const VALUE: [u8; 100] = [7; 100];
/// Of memory for each record, with room to spare: nothing is evicted or compacted.
const RECORD: u64 = 150;
const MILLION: u64 = 1_000_000;
const PORT: u16 = 21_217;
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(1);

pub fn recovery() {
    println!("recovery: 14-byte keys, 100-byte values, a volume in /dev/shm; seconds until all items are back");
    println!("| items | dead records beside them | after a clean end | after a kill |");
    println!("|---|---|---|---|");
    for (items, dead) in [(10, 0), (10, 10), (40, 0)] {
        let volume = Volume::new();
        volume.fill(items * MILLION, dead * MILLION);
        let [clean, killed] = [true, false].map(|clean| volume.restart(items * MILLION, clean));
        println!("| {items} M | {dead} M | {clean:.2} | {killed:.2} |");
    }
    match memcached(10 * MILLION) {
        Some(seconds) => println!("memcached -e, 10 M items, after SIGUSR1: {seconds:.2} s"),
        None => println!("memcached is not installed: no figure beside it"),
    }
}

struct Volume {
    settings: VolumeSettings,
}

impl Volume {
    fn new() -> Volume {
        let directory = Path::new("/dev/shm").join(format!("gannet-figures-{}", std::process::id()));
        Volume {
            settings: VolumeSettings { on_mismatch: OnMismatch::Refuse, ..VolumeSettings::new(directory, [1; 16]) },
        }
    }

    fn open(&self, records: u64) -> (Cache, f64, u64) {
        let budget = (records * RECORD) as usize + (64 << 20);
        let settings = Settings { budget, max_item_size: 512 << 10, eviction: Eviction::Merge, seed: 42 };
        let began = Instant::now();
        let (cache, report) = Cache::open(settings, &self.settings, NOW, &RecoveryProgress::default()).unwrap();
        (cache, began.elapsed().as_secs_f64(), report.items)
    }

    /// Makes a volume of so many items, and leaves it without a clean end. What is dead lies between them.
    fn fill(&self, items: u64, dead: u64) {
        let (mut cache, _, _) = self.open(items + dead);
        for number in 0..items + dead {
            cache.set(&key(number), &VALUE, 0, Deadline::At(NOW + 3600)).unwrap();
        }
        (0..dead).for_each(|number| assert!(cache.delete(&key(2 * number))));
        assert_eq!(cache.counters().items, items);
    }

    /// Opens the volume, ends, and opens it again; the time of the second.
    fn restart(&self, items: u64, clean: bool) -> f64 {
        // The same budget again, whatever of it is dead.
        let records = fs::metadata(self.settings.directory.join("gannet.volume")).unwrap().len() / RECORD;
        let (cache, _, _) = self.open(records);
        if clean {
            cache.close().unwrap()
        } else {
            drop(cache)
        }
        let (_, seconds, back) = self.open(records);
        assert_eq!(back, items);
        seconds
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.settings.directory));
    }
}

/// memcached with its restart file in memory.
struct Memcached {
    child: Child,
}

/// The file, which goes with the figure.
struct RestartFile(PathBuf);

impl Drop for RestartFile {
    fn drop(&mut self) {
        for suffix in ["", ".meta"] {
            drop(fs::remove_file(format!("{}{suffix}", self.0.display())));
        }
    }
}

impl Memcached {
    fn start(file: &RestartFile, items: u64) -> Option<Memcached> {
        let memory = ((items * 220) >> 20).to_string();
        let mut command = Command::new("memcached");
        command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-t", "2", "-m", &memory]);
        command.args(["-p", &PORT.to_string(), "-e"]).arg(&file.0).stdin(Stdio::null()).stderr(Stdio::null());
        Some(Memcached { child: command.spawn().ok()? })
    }

    /// A connection, as soon as there is one.
    fn connect(&self) -> TcpStream {
        let began = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", PORT)) {
                Ok(stream) => return stream,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            thread::sleep(PAUSE);
        }
    }

    /// How many items it says that it has.
    fn items(&self) -> u64 {
        let mut stream = self.connect();
        stream.write_all(b"stats\r\n").unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let count = lines
            .take_while(|line| line != "END")
            .find_map(|line| Some(line.strip_prefix("STAT curr_items ")?.parse()));
        count.unwrap().unwrap()
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The seconds that memcached needs until it has its items back; none where it is not installed.
fn memcached(items: u64) -> Option<f64> {
    let name = format!("memcached-figures-{}", std::process::id());
    let file = RestartFile(Path::new("/dev/shm").join(name));
    let mut before = Memcached::start(&file, items)?;
    let mut stream = std::io::BufWriter::new(before.connect());
    for number in 0..items {
        stream.write_all(b"set ").unwrap();
        stream.write_all(&key(number)).unwrap();
        stream.write_all(b" 0 3600 100 noreply\r\n").unwrap();
        stream.write_all(&VALUE).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    let mut stream = stream.into_inner().unwrap();
    stream.write_all(b"mn\r\n").unwrap();
    BufReader::new(stream).read_line(&mut String::new()).unwrap();
    let stored = before.items();
    // The signal that asks memcached for a clean end with its restart file.
    let asked = Command::new("kill").args(["-USR1", &before.child.id().to_string()]).status().ok()?;
    assert!(asked.success() && before.child.wait().is_ok());
    let began = Instant::now();
    let after = Memcached::start(&file, items)?;
    let back = after.items();
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(back, stored);
    assert!(stored * 10 > items * 9, "memcached has {stored} of {items} items: give it more memory");
    Some(seconds)
}
