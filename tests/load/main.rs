//! A load generator for servers of the memcached protocol.

mod bench;
mod connection;
mod distribution;
mod driver;
mod floor;
mod handshakes;
mod idle;
mod keyspace;
mod memory;
mod options;
mod plan;
mod plot;
mod profile;
mod random;
mod reply;
mod report;
mod request;
mod run;
mod schedule;
mod servers;
mod tally;
mod transport;
mod ttl;
mod usage;
mod warm;
mod workload;

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::options::Options;
use crate::report::Report;

/// Load for servers of the memcached protocol, and what they make of it.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<Options>),
    Idle(idle::Options),
    Handshakes(handshakes::Options),
    Bench(bench::Options),
    Memory(memory::Options),
    Warm(warm::Options),
    /// Serve what is no cache: look for line ends, and answer each with the reply to a hit
    Floor {
        /// Where clients connect
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:11211")]
        listen: SocketAddr,
        /// Bytes of a key
        #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=250))]
        key_size: u16,
        /// Bytes of a value
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=128 << 20))]
        value_size: u32,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(options) => run(&options),
        Command::Idle(options) => idle::run(&options).map_err(Box::from),
        Command::Handshakes(options) => handshakes::run(&options).map_err(Box::from),
        Command::Bench(options) => bench::run(&options),
        Command::Memory(options) => memory::run(&options).map_err(|failure| failure.to_string().into()),
        Command::Warm(options) => warm::run(&options).map_err(|failure| failure.to_string().into()),
        Command::Floor { listen, key_size, value_size } => {
            floor::serve(listen, &floor::reply(usize::from(key_size), value_size as usize)).map_err(Box::from)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let report = Report::new(run::run(options)?);
    if !options.quiet {
        io::stderr().write_all(report.table().as_bytes())?;
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report.json(options))? + "\n";
        if file == Path::new("-") {
            io::stdout().write_all(text.as_bytes())?;
        } else {
            fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    if let Some(file) = &options.plot {
        let title = options.servers.join(", ");
        plot::latencies(file, &title, report.latency()).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    match report.violations() {
        0 => Ok(()),
        wrong => Err(format!("{wrong} replies were wrong: the server does not return what was stored").into()),
    }
}
