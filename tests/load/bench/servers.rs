//! The servers that are compared.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::process::tied;

use crate::bench::tls::Files;

/// A server in one of its forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Memcached,
    /// One worker, the cache inline.
    Node,
    /// One worker and a storage thread.
    NodeThread,
    /// Two workers and a storage thread.
    NodeTwo,
    /// PING and PONG.
    NodePing,
    Floor,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Memcached => "memcached -t 1",
            Kind::Node => "cache-node",
            Kind::NodeThread => "cache-node, storageThread: Always",
            Kind::NodeTwo => "cache-node, workers: 2",
            Kind::NodePing => "cache-node, protocol: Ping",
            Kind::Floor => "floor",
        }
    }

    /// Whether it keeps what it is given.
    pub fn is_cache(self) -> bool {
        !matches!(self, Kind::Floor | Kind::NodePing)
    }

    /// The only protocol it speaks.
    pub fn protocol(self) -> Option<&'static str> {
        match self {
            Kind::Floor => Some("floor"),
            Kind::NodePing => Some("ping"),
            _ => None,
        }
    }

    /// What its configuration has beyond that of [`Kind::Node`].
    fn configuration(self) -> &'static str {
        match self {
            Kind::NodeThread => "storageThread: Always\n",
            Kind::NodeTwo => "workers: 2\n",
            Kind::NodePing => "protocol: Ping\n",
            Kind::Memcached | Kind::Node | Kind::Floor => "",
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    pub cache_node: PathBuf,
    pub memcached: PathBuf,
    pub load: PathBuf,
    /// For configurations and logs.
    pub work: PathBuf,
    pub cores: usize,
}

impl Programs {
    /// A program on this core, or on any, where the machine has only one. It ends with this program, also where that is
    /// killed.
    ///
    /// # Errors
    /// Where there is no such program.
    pub fn pinned(&self, core: usize, program: &Path) -> io::Result<Command> {
        if self.cores < 2 {
            return tied(program);
        }
        let mut command = tied("taskset")?;
        command.arg("-c").arg(core.to_string()).arg(program);
        Ok(command)
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Running {
    pub kind: Kind,
    pub port: u16,
    /// The certificates, where it speaks TLS.
    pub tls: Option<Files>,
    child: Child,
}

const START: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 20_000;
const MEMORY_MEBIBYTES: usize = 1024;

impl Running {
    /// # Errors
    /// In words, where it does not come to serve: an older program, say, that does not know its configuration.
    pub fn start(kind: Kind, programs: &Programs, value_size: usize, tls: Option<&Files>) -> Result<Running, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let log = programs.work.join(format!("{port}.log"));
        let mut command = command(kind, programs, port, value_size, tls).map_err(|error| error.to_string())?;
        let output = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(|error| format!("{} cannot be started: {error}", kind.name()))?;
        let mut running = Running { kind, port, tls: tls.cloned(), child };
        let deadline = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = running.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing").to_owned();
                return Err(format!("it does not start: {last}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    /// taskset becomes the program that it starts, so this is the server's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("{} could not be ended: {error}", self.kind.name());
        }
    }
}

fn command(kind: Kind, programs: &Programs, port: u16, value_size: usize, tls: Option<&Files>) -> io::Result<Command> {
    let address = format!("127.0.0.1:{port}");
    let command = match kind {
        Kind::Memcached => {
            let mut command = programs.pinned(0, &programs.memcached)?;
            command.args(["-t", "1", "-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-u", "root"]);
            command.args(["-m", &MEMORY_MEBIBYTES.to_string(), "-c", &CONNECTIONS.to_string(), "-I", "2m"]);
            command.args(tls.iter().flat_map(|files| files.of_memcached()));
            command
        }
        Kind::Floor => {
            let mut command = programs.pinned(0, &programs.load)?;
            command.args(["floor", "--listen", &address, "--value-size", &value_size.to_string()]);
            command
        }
        Kind::Node | Kind::NodeThread | Kind::NodeTwo | Kind::NodePing => {
            let file = programs.work.join(format!("{port}.yaml"));
            let own = kind.configuration().to_owned() + &tls.map_or_else(String::new, Files::of_node);
            let text = format!(
                "version: 1\nlisten: {address}\nmemory: {MEMORY_MEBIBYTES}Mi\nbufferMemory: 256Mi\nmaxConnections: {CONNECTIONS}\n{own}"
            );
            fs::write(&file, text)?;
            // Two workers and a storage thread are there to use more than one core.
            let mut command = match kind {
                Kind::NodeTwo => tied(&programs.cache_node)?,
                _ => programs.pinned(0, &programs.cache_node)?,
            };
            command.arg("--config").arg(&file);
            command
        }
    };
    Ok(command)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
