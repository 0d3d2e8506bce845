//! Connections within TLS that are made for their own sake: what a handshake costs a server.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustls::{ClientConnection, HandshakeKind, StreamOwned};
use serde_json::json;

use crate::transport::{Identity, IdentityFiles};
use crate::usage::Usage;

/// Make connections one after the other, use each once, and close it.
///
/// It says in one line of JSON how many there were, how many of them came back with a ticket, and what each cost the
/// server's process: handshake, one request, and the end.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server, as HOST:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:11211")]
    server: String,
    #[command(flatten)]
    tls: TlsOptions,
    /// How many
    #[arg(long, short, value_name = "N", default_value_t = 1000)]
    count: u32,
    /// How many a second; without it, as fast as they go
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Come back with the ticket of the connection before
    #[arg(long)]
    resume: bool,
    /// The process of the server
    #[arg(long, value_name = "PID")]
    measure: Option<u32>,
}

/// Who the client is.
#[derive(Args, Clone, Debug)]
pub struct TlsOptions {
    /// The certificates that are trusted (PEM)
    #[arg(long, value_name = "FILE")]
    tls_ca: std::path::PathBuf,
    /// The client's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<std::path::PathBuf>,
    /// The key to it (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<std::path::PathBuf>,
}

/// A connection within TLS that waits for its answers.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

const TIMEOUT: Duration = Duration::from_secs(10);

impl TlsOptions {
    /// # Errors
    /// Which file is of no use, and why.
    pub fn load(&self, server: &str) -> io::Result<Identity> {
        let TlsOptions { tls_ca: ca, tls_cert, tls_key } = self.clone();
        IdentityFiles { ca, pair: tls_cert.zip(tls_key), name: None }.load(server)
    }
}

/// # Errors
/// Where a connection cannot be made, or is not answered.
pub fn run(options: &Options) -> io::Result<()> {
    let addresses: Vec<_> = options.server.to_socket_addrs()?.collect();
    let identity = options.tls.load(&options.server)?;
    let make = || {
        let identity = if options.resume { identity.clone() } else { identity.without_tickets() };
        connect(&addresses, &identity)
    };
    // The first connections make a server allocate what it keeps, and bring the first ticket.
    for _ in 0..10 {
        make()?;
    }
    let usage = |process: Option<u32>| process.map(Usage::of).transpose();
    let before = usage(options.measure)?;
    let began = Instant::now();
    let mut resumed = 0;
    for number in 0..options.count {
        if let Some(rate) = options.rate {
            let due = began + Duration::from_secs(1) * number / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        resumed += u32::from(make()?.conn.handshake_kind() == Some(HandshakeKind::Resumed));
    }
    let cpu = usage(options.measure)?.zip(before).map(|(after, before)| after.cpu.saturating_sub(before.cpu));
    let each = cpu.map(|nanos| nanos as f64 / 1e3 / f64::from(options.count.max(1)));
    let line = json!({"handshakes": options.count, "resumed": resumed, "serverCpuMicrosEach": each});
    writeln!(io::stdout(), "{line}")
}

/// A connection whose handshake is done and that was used once.
///
/// # Errors
/// Where it cannot be made, or is not answered.
pub fn connect(addresses: &[SocketAddr], identity: &Identity) -> io::Result<Stream> {
    let stream = TcpStream::connect(addresses)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut stream = StreamOwned::new(identity.session()?, stream);
    stream.write_all(b"mn\r\n")?;
    let mut line = String::new();
    BufReader::with_capacity(64, &mut stream).read_line(&mut line)?;
    if line.trim_end() == "MN" { Ok(stream) } else { Err(io::Error::other(format!("mn is answered with {line:?}"))) }
}
