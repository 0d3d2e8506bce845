//! A node in an emulated machine with an NVDIMM, whose power is cut while the node writes: what it has afterwards is what its
//! durability promises.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use config::{Durability, Medium, Recovery};

use crate::failure::{Failure, Outcome};
use crate::journal::{Expected, Journal, Random, check_all, while_working};
use crate::node::{Client, argument, folder, http, program};
use crate::process::tied;

/// Where `tests/power/machine prepare` has put what the machine starts from. Without it there is no machine.
const PREPARED: &str = "GANNET_MACHINE";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/power/machine");
/// An emulated processor is slow, and it may have to share a real one.
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(200);
const CLIENTS: u64 = 3;
/// A node lives for so many milliseconds of load.
const SHORTEST_LIFE: u64 = 300;
const LONGEST_LIFE: u64 = 2500;
/// How often the volume is flushed, and how long a flush may take on top of it.
const INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_FLUSH: Duration = Duration::from_secs(2);
/// Items stay for ever: the machine's clock need not be this one's.
const TTLS: &[u64] = &[0];

/// Whether there is a machine whose power can be cut; says so where there is none.
#[must_use]
pub fn can_be_cut() -> bool {
    let is_prepared = env::var_os(PREPARED).is_some();
    if !is_prepared {
        println!(
            "skipped: there is no emulated machine; tests/run installs one where the emulator can be had ({PREPARED})"
        );
    }
    is_prepared
}

/// Cuts the power of a node with this durability so many times, and compares what it then has with the journals.
///
/// # Errors
/// What is wrong: with the round, the key, what was acknowledged and what was found.
pub fn rounds(durability: Durability, count: u64, seed: u64) -> Outcome {
    let files = Files(folder()?);
    let mut journals: Vec<_> = (0..CLIENTS).map(|client| Journal::new(client, seed, TTLS)).collect();
    let mut random = Random::new(seed);
    for round in 0..=count {
        let machine = Machine::start(&files.0, durability)?;
        let compared = compare(&machine, &mut journals, durability, round);
        compared
            .map_err(|failure| failure.while_doing(format!("{durability:?}, round {round}:\n{}", machine.log())))?;
        if round < count {
            let life = Duration::from_millis(SHORTEST_LIFE + random.below(LONGEST_LIFE - SHORTEST_LIFE));
            while_working(&mut journals, machine.address, || {
                thread::sleep(life);
                machine.cut()
            })?;
            let changes: usize = journals.iter().map(Journal::changes).sum();
            crate::ensure!(changes > 0, "round {round}: nothing was acknowledged");
        }
    }
    Ok(())
}

fn compare(machine: &Machine, journals: &mut [Journal], durability: Durability, round: u64) -> Outcome {
    let Recovery { medium, durability: holds, cold, .. } = &machine.recovery;
    crate::ensure!((*medium, *holds) == (Medium::PersistentMemory, durability), "{:?}", machine.recovery);
    let is_cold = round == 0 || durability == Durability::None;
    crate::ensure!(cold.is_some() == is_cold, "{:?}", machine.recovery);
    let expected = match durability {
        Durability::None => Expected::Nothing,
        Durability::Interval => Expected::NothingOlder(machine.took + INTERVAL + LONGEST_FLUSH),
        Durability::Always => Expected::Everything,
    };
    let items = check_all(journals, machine.address, expected)?;
    println!("{durability:?}: round {round}: {items} items are back");
    crate::ensure!(is_cold || items > 0, "nothing came back");
    Ok(())
}

/// The files of a machine, which go with the test.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A machine with a node that serves; its power is cut when it is dropped.
struct Machine {
    child: std::sync::Mutex<Child>,
    console: PathBuf,
    address: SocketAddr,
    recovery: Recovery,
    /// From the start of the machine until the node served.
    took: Duration,
}

impl Machine {
    fn start(files: &Path, durability: Durability) -> Outcome<Machine> {
        let prepared = env::var_os(PREPARED).ok_or_else(|| Failure::new(format!("{PREPARED} is not set")))?;
        let (address, admin) = (free_port()?, free_port()?);
        let (configuration, console) = (files.join("node.yaml"), files.join("console"));
        fs::write(
            &configuration,
            format!(
                "version: 1\nlisten: 0.0.0.0:11211\nadmin: 0.0.0.0:9180\nmemory: 32Mi\nmaxItemSize: 64Ki\neviction: None\n\
                 storage:\n  directory: /mnt/volume\n  medium: PersistentMemory\n  durability: {durability:?}\n  \
                 flushInterval: {}s\n",
                INTERVAL.as_secs()
            ),
        )?;
        let began = Instant::now();
        let mut command = tied(SCRIPT)?;
        command.arg("run").arg(prepared).arg(files.join("nvdimm")).arg(program()?).arg(argument(&configuration));
        command.args([address, admin].map(|address| address.port().to_string()));
        let output = fs::File::create(&console)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn()?;
        let recovery = loop {
            match recovery(address, admin) {
                Ok(recovery) => break recovery,
                Err(failure) if began.elapsed() > PATIENCE || child.try_wait()?.is_some() => {
                    drop(child.kill());
                    drop(child.wait());
                    return Err(failure.while_doing(format!("the machine started:\n{}", text(&console))));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        };
        Ok(Machine { child: std::sync::Mutex::new(child), console, address, recovery, took: began.elapsed() })
    }

    /// Ends the emulator in whatever it does.
    fn cut(&self) -> Outcome {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn log(&self) -> String {
        text(&self.console)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.cut());
    }
}

fn text(console: &Path) -> String {
    fs::read(console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// How the node has found its volume, once it serves.
fn recovery(address: SocketAddr, admin: SocketAddr) -> Outcome<Recovery> {
    let status: config::Status = serde_json::from_str(&http(admin, "GET", "/status")?.1)?;
    Client::connect(address)?.expect(b"mn\r\n", b"MN\r\n")?;
    status.storage.and_then(|storage| storage.recovery).ok_or_else(|| Failure::new("the volume is not open yet"))
}

/// A port that nobody has at the moment.
fn free_port() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
