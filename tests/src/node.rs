//! A cache-node, or the memcached that it is compared with, as a process of its own on a free port, and clients of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::failure::{Failure, Outcome};
use crate::process::tied;

/// How long anything that should happen at once may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);
/// The system's buffers of a connection take so much, whether the other side reads or not.
const HELD_BY_SYSTEM: usize = 32 << 10;

/// The ways in which a node can divide its work; whatever is asked of a node holds in each.
pub const MODES: [(&str, &str); 3] = [
    ("one worker with the cache", "workers: 1\n"),
    ("one worker and a storage thread", "workers: 1\nstorageThread: Always\n"),
    ("two workers and a storage thread", "workers: 2\n"),
];

/// A running cache-node; it is killed when dropped.
pub struct Node {
    child: Child,
    log: Arc<Log>,
    folder: PathBuf,
    /// Where clients connect.
    pub address: SocketAddr,
    /// The health port.
    pub health: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

/// The program under test: `GANNET_CACHE_NODE`, or the one that was built beside the tests.
///
/// # Errors
/// Where it was not built.
pub fn program() -> Outcome<PathBuf> {
    let beside = env::current_exe()?.ancestors().nth(2).map(|folder| folder.join("cache-node"));
    let program = env::var_os("GANNET_CACHE_NODE").map(PathBuf::from).or(beside);
    program.filter(|program| program.is_file()).ok_or_else(|| {
        Failure::new(
            "cache-node was not built: run `cargo build -p cache-node`, or set GANNET_CACHE_NODE to the program",
        )
    })
}

/// A folder for one test's files.
///
/// # Errors
/// Where it cannot be made.
pub fn folder() -> Outcome<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("gannet-node-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = env::temp_dir().join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl Node {
    /// Starts a node with these lines in its configuration file, on free ports, and waits until it serves.
    ///
    /// # Errors
    /// Where it does not; with its log.
    pub fn start(lines: &str) -> Outcome<Node> {
        Node::start_with(lines, &[])
    }

    /// As [`Node::start`], with more arguments.
    ///
    /// # Errors
    /// Where it does not; with its log.
    pub fn start_with(lines: &str, arguments: &[&str]) -> Outcome<Node> {
        let mut node = Node::launch(lines, arguments)?;
        node.wait_until_it_serves()?;
        Ok(node)
    }

    /// As [`Node::start_with`], but waits only for the health and the admin port.
    ///
    /// # Errors
    /// Where they are not served; with its log.
    pub fn launch(lines: &str, arguments: &[&str]) -> Outcome<Node> {
        let folder = folder()?;
        let file = folder.join("cache-node.yaml");
        let ports = "listen: 127.0.0.1:0\nhealth: 127.0.0.1:0\nadmin: 127.0.0.1:0\n";
        fs::write(&file, format!("version: 1\n{ports}{lines}"))?;
        let mut command = tied(program()?)?;
        command.arg("--config").arg(&file).args(arguments).env_remove("RUST_LOG");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let log = Arc::new(Log::default());
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            thread::spawn(move || log.follow(BufReader::new(stderr)));
        }
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut node = Node { child, log, folder, address: unknown, health: unknown, admin: unknown };
        node.health = node.announced("serving /livez, /readyz")?;
        node.admin = node.announced("serving /metrics, /status, /drain")?;
        Ok(node)
    }

    /// Waits until clients can connect.
    ///
    /// # Errors
    /// Where they cannot; with the node's log.
    pub fn wait_until_it_serves(&mut self) -> Outcome {
        self.address = self.announced("serving clients")?;
        Ok(())
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// Where the admin port does not answer, or something else.
    pub fn status(&self) -> Outcome<config::Status> {
        Ok(serde_json::from_str(&http(self.admin, "GET", "/status")?.1)?)
    }

    /// Waits for a line of the log that contains `text`, and returns it.
    ///
    /// # Errors
    /// Where it does not come, or the node ends before; with the log.
    pub fn wait_for_log(&self, text: &str) -> Outcome<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (lines, ended) = &*state;
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if *ended || left.is_zero() {
                return Err(Failure::new(format!("the node does not log \"{text}\":\n{}", lines.join("\n"))));
            }
            state = self.log.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    fn announced(&self, text: &str) -> Outcome<SocketAddr> {
        let line = self.wait_for_log(text)?;
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("at="));
        Ok(address.ok_or_else(|| Failure::new(format!("no address in \"{line}\"")))?.parse()?)
    }

    /// A client of this node.
    ///
    /// # Errors
    /// Where it cannot connect.
    pub fn client(&self) -> Outcome<Client> {
        Client::connect(self.address)
    }

    /// The node's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the node a signal, such as `TERM`.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, signal: &str) -> Outcome {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status()?;
        crate::ensure!(status.success(), "the node cannot be sent SIG{signal}");
        Ok(())
    }

    /// Waits until the node has ended by itself.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn wait(&mut self) -> Outcome<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            crate::ensure!(Instant::now() < deadline, "the node does not end:\n{}", self.log.text());
            thread::sleep(PAUSE);
        }
    }

    /// The value of a metric, such as `gannet_hits_total{command="get"}`.
    ///
    /// # Errors
    /// Where the admin port does not answer, or does not name it.
    pub fn metric(&self, name: &str) -> Outcome<f64> {
        let (_, text) = http(self.admin, "GET", "/metrics")?;
        crate::http::metric(&text, name)
    }

    /// Waits until a metric has a value of which `holds` is true; metrics of the cache are published four times a
    /// second.
    ///
    /// # Errors
    /// Where it never has.
    pub fn wait_for_metric(&self, name: &str, holds: impl Fn(f64) -> bool) -> Outcome<f64> {
        let mut value = 0.0;
        eventually(|| {
            value = self.metric(name)?;
            crate::ensure!(holds(value), "{name} is {value}");
            Ok(())
        })?;
        Ok(value)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
        if thread::panicking() {
            eprintln!("the node's log:\n{}", self.log.text());
        }
    }
}

impl Log {
    fn follow(&self, source: impl BufRead) {
        for line in source.lines().map_while(Result::ok) {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
            self.grown.notify_all();
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.grown.notify_all();
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.join("\n")
    }
}

/// Runs the program until it ends by itself, as with a bad configuration; returns its status and what it wrote to its
/// standard error.
///
/// # Errors
/// Where it does not end.
pub fn run_to_end(arguments: &[&str]) -> Outcome<(ExitStatus, String)> {
    let mut command = tied(program()?)?;
    let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(Failure::new(format!("cache-node {arguments:?} does not end")));
        }
        thread::sleep(PAUSE);
    };
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut text)?;
    }
    Ok((status, text))
}

/// Debian's memcached; it is killed when dropped.
pub struct Memcached {
    child: Child,
    folder: PathBuf,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Memcached {
    /// Starts memcached on a free port and waits until it serves.
    ///
    /// # Errors
    /// Where it is not installed, or does not serve.
    pub fn start(arguments: &[&str]) -> Outcome<Memcached> {
        let folder = folder()?;
        let file = folder.join("port");
        // Port -1 is any free one, written to this file.
        let absent = |error| {
            Failure::new(format!("memcached cannot be run ({error}): install it with `apt-get install memcached`"))
        };
        let mut command = tied("memcached").map_err(absent)?;
        command.args(["-l", "127.0.0.1", "-p", "-1", "-U", "0", "-u", "root"]).args(arguments);
        command.env("MEMCACHED_PORT_FILENAME", &file).stdin(Stdio::null());
        let child = command.spawn().map_err(absent)?;
        let mut memcached = Memcached { child, folder, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        eventually(|| {
            let text = fs::read_to_string(&file)?;
            let port = text.lines().find_map(|line| line.strip_prefix("TCP INET: "));
            memcached.address.set_port(port.ok_or_else(|| Failure::new("memcached names no port"))?.trim().parse()?);
            Client::connect(memcached.address).map(drop)
        })?;
        Ok(memcached)
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal such as `USR1`, and waits until it has ended.
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub fn end(&mut self, signal: &str) -> Outcome {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status()?;
        crate::ensure!(status.success(), "memcached cannot be sent SIG{signal}");
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// A connection of a client that knows the protocol by heart.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens.
    pub fn connect(address: SocketAddr) -> Outcome<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { reader: BufReader::new(stream) })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// Where the connection is gone, or takes nothing.
    pub fn send(&mut self, bytes: &[u8]) -> Outcome {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    /// Sends bytes and expects exactly this answer.
    ///
    /// # Errors
    /// Where another one comes, or none.
    pub fn expect(&mut self, request: &[u8], answer: &[u8]) -> Outcome {
        self.send(request)?;
        self.expect_answer(answer).map_err(|failure| failure.while_doing(request.escape_ascii()))
    }

    /// Expects exactly this answer to what was sent before.
    ///
    /// # Errors
    /// Where another one comes, or none.
    pub fn expect_answer(&mut self, answer: &[u8]) -> Outcome {
        let mut got = vec![0; answer.len()];
        let mut length = 0;
        while length < got.len() {
            let count = self.reader.read(&mut got[length..])?;
            length += count;
            if count == 0 || got[..length] != answer[..length] {
                break;
            }
        }
        let shorten = |bytes: &[u8]| bytes[..bytes.len().min(400)].escape_ascii().to_string();
        crate::ensure!(got[..length] == *answer, "expected {} but got {}", shorten(answer), shorten(&got[..length]));
        Ok(())
    }

    /// Asks for statistics, such as by `stats conns\r\n`; names and values in the order in which they come.
    ///
    /// # Errors
    /// Where something else is answered.
    pub fn statistics(&mut self, request: &str) -> Outcome<Vec<(String, String)>> {
        self.send(request.as_bytes())?;
        let mut stats = Vec::new();
        loop {
            let line = self.line()?;
            if line == "END" {
                return Ok(stats);
            }
            let mut words = line.splitn(3, ' ');
            crate::ensure!(words.next() == Some("STAT"), "{line}");
            stats.push((words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned()));
        }
    }

    /// Reads one line, without its end.
    ///
    /// # Errors
    /// Where none comes.
    pub fn line(&mut self) -> Outcome<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        crate::ensure!(line.ends_with(b"\n"), "the connection ended in the line {}", line.escape_ascii());
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Reads this many bytes and forgets them.
    ///
    /// # Errors
    /// Where they do not come.
    pub fn skip(&mut self, length: usize) -> Outcome {
        let skipped = std::io::copy(&mut self.reader.by_ref().take(length as u64), &mut std::io::sink())?;
        crate::ensure!(skipped == length as u64, "the connection ended after {skipped} of {length} bytes");
        Ok(())
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn finish(&mut self) -> Outcome {
        Ok(self.reader.get_mut().shutdown(Shutdown::Write)?)
    }

    /// Everything that still comes until the other side closes.
    ///
    /// # Errors
    /// Where it does not close, or the connection breaks.
    pub fn rest(&mut self) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The stream itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}

/// Sends these pieces, each in a packet of its own as far as the system allows, says that that was all, and returns
/// everything that came back. It reads while it sends, as a pipelining client does.
///
/// # Errors
/// Where nobody listens, or the other side does not close.
pub fn exchange(address: SocketAddr, pieces: &[&[u8]]) -> Outcome<Vec<u8>> {
    let client = Client::connect(address)?;
    let mut writer = client.stream().try_clone()?;
    let mut send = move || {
        // The server may close in the middle, which shows in what comes back.
        let sent = pieces.iter().try_for_each(|piece| writer.write_all(piece));
        drop(sent.and_then(|()| writer.shutdown(Shutdown::Write)));
    };
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() <= HELD_BY_SYSTEM {
        send();
        return everything(client.stream());
    }
    thread::scope(|scope| {
        scope.spawn(send);
        everything(client.stream())
    })
}

/// What comes until the other side closes.
fn everything(mut reader: &TcpStream) -> Outcome<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            // A server that closes with bytes unread resets the connection.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(answer),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One HTTP request; returns status and body.
///
/// # Errors
/// Where nobody answers.
pub fn http(address: SocketAddr, method: &str, path: &str) -> Outcome<(u16, String)> {
    let mut client = Client::connect(address)?;
    client.send(format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let answer = String::from_utf8_lossy(&client.rest()?).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    let status = status.parse().map_err(|_| Failure::new(format!("{method} {path}: no status in {head}")))?;
    Ok((status, body.to_owned()))
}

/// Waits until something succeeds.
///
/// # Errors
/// Its last failure, where it does not within [`PATIENCE`].
pub fn eventually(mut attempt: impl FnMut() -> Outcome) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// The path of a file as an argument.
#[must_use]
pub fn argument(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
