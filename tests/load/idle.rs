//! Connections that do nothing: what they cost a server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustls::StreamOwned;
use serde_json::json;

use crate::run::raise_file_limit;
use crate::transport::{Identity, IdentityFiles};
use crate::usage::Usage;

/// Open connections, use each once, and hold them.
///
/// It says in one line of JSON what the server's process used before, with all connections open, and when they had been
/// idle for a while; then it closes them.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server, as HOST:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:11211")]
    server: String,
    /// How many
    #[arg(long, short, value_name = "N", default_value_t = 10_000)]
    connections: usize,
    /// What each is used for before it is idle: a line, answered by lines up to --until
    #[arg(long, value_name = "TEXT", default_value = "get idle")]
    request: String,
    /// The line that ends the reply
    #[arg(long, value_name = "TEXT", default_value = "END")]
    until: String,
    /// How long they are idle
    #[arg(long, value_name = "TIME", default_value = "2s")]
    hold: config::Duration,
    /// TLS, trusting the certificates in this file (PEM)
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key to it (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The process of the server
    #[arg(long, value_name = "PID")]
    measure: u32,
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// A process whose memory has stayed the same for so long has ended what it does when it starts.
const SETTLED: Duration = Duration::from_millis(250);
/// Looks, at most.
const LOOKS: usize = 40;
/// No line of a reply is longer.
const LONGEST_LINE: u64 = 4096;
/// Lines of a reply; one that has more is not the one that was waited for.
const LINES: usize = 100;

/// # Errors
/// Where a connection cannot be made, or is not answered.
pub fn run(options: &Options) -> io::Result<()> {
    raise_file_limit(options.connections)?;
    let addresses: Vec<_> = options.server.to_socket_addrs()?.collect();
    // The first connections make a server allocate what it keeps: that is no connection's cost.
    let pair = options.tls_cert.clone().zip(options.tls_key.clone());
    let files = options.tls_ca.clone().map(|ca| IdentityFiles { ca, pair, name: None });
    let tls = files.map(|files| files.load(&options.server)).transpose()?;
    // memcached refuses those who come back with a ticket and a certificate.
    let tls = tls.map(|identity| identity.without_tickets());
    let open_one = || opened(options, &addresses, tls.as_ref());
    let warm = (0..10).map(|_| open_one()).collect::<io::Result<Vec<_>>>()?;
    let before = settled(options.measure)?;
    let mut held = Vec::with_capacity(options.connections);
    for index in 0..options.connections {
        held.push(open_one().map_err(|error| io::Error::other(format!("connection {}: {error}", index + 1)))?);
    }
    let open = Usage::of(options.measure)?;
    std::thread::sleep(options.hold.0);
    let idle = Usage::of(options.measure)?;
    let mut still = 0;
    for stream in &mut held {
        still += usize::from(ask(options, stream.as_mut()).is_ok());
    }
    let each = |usage: Usage| (usage.resident as f64 - before.resident as f64) / options.connections as f64;
    let line = json!({
        "connections": options.connections,
        "answeredAfterwards": still,
        "residentBefore": before.resident,
        "residentOpen": open.resident,
        "residentIdle": idle.resident,
        "bytesEachOpen": each(open),
        "bytesEachIdle": each(idle),
    });
    drop(warm);
    writeln!(io::stdout(), "{line}")
}

/// What a process uses once it has started: a cache-node makes some of its memory ready ahead meanwhile, which is no
/// connection's.
fn settled(process: u32) -> io::Result<Usage> {
    let mut usage = Usage::of(process)?;
    for _ in 0..LOOKS {
        std::thread::sleep(SETTLED);
        let later = Usage::of(process)?;
        if later.resident == usage.resident {
            return Ok(later);
        }
        usage = later;
    }
    Err(io::Error::other(format!("the resident memory of process {process} does not come to rest")))
}

fn opened(options: &Options, addresses: &[SocketAddr], tls: Option<&Identity>) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(addresses)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(identity) => Box::new(StreamOwned::new(identity.session()?, stream)),
    };
    ask(options, stream.as_mut())?;
    Ok(stream)
}

/// A connection, in the clear or within TLS.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn ask(options: &Options, stream: &mut dyn Stream) -> io::Result<()> {
    stream.write_all(format!("{}\r\n", options.request).as_bytes())?;
    let mut reader = BufReader::with_capacity(512, stream);
    for _ in 0..LINES {
        let mut line = String::new();
        reader.by_ref().take(LONGEST_LINE).read_line(&mut line)?;
        if line.trim_end() == options.until {
            return Ok(());
        }
        if !line.ends_with('\n') {
            return Err(io::Error::other("the server closed the connection"));
        }
    }
    Err(io::Error::other(format!("no line {} in {LINES} lines", options.until)))
}
