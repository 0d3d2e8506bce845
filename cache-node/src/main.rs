//! A cache server that speaks the memcached protocol.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use cache_node::control::Log;
use cache_node::node::{self, Node, NodeError};
use cache_node::signals;
use clap::Parser;
use config::{Bytes, Config, ConfigError};
use tracing::{error, info, warn};

/// One cache server. It speaks the memcached protocol and keeps its items in memory. Without arguments it serves
/// 127.0.0.1:11211 with 64 MiB. RUST_LOG sets what is logged.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// The configuration file (YAML); what is given here as an argument overrides it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect, such as 0.0.0.0:11211
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Memory for items and their index, such as 64Mi
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// The number of worker threads
    #[arg(long, value_name = "N")]
    workers: Option<u16>,
    /// Where /livez and /readyz are served
    #[arg(long, value_name = "ADDR")]
    health: Option<SocketAddr>,
    /// Where /metrics, /status and POST /drain are served
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable { file: PathBuf, reason: io::Error },
    #[error("{}: {reason}", file.display())]
    Invalid { file: PathBuf, reason: ConfigError },
    #[error("arguments: {field}: {value} is out of range: {range}")]
    Range { field: &'static str, value: String, range: &'static str },
    #[error("arguments: {0}")]
    Arguments(ConfigError),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Node(#[from] NodeError),
}

fn main() -> ExitCode {
    let log = Log::start();
    match run(Arguments::parse(), log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, log: Log) -> Result<(), MainError> {
    let (config, hash) = configuration(arguments)?;
    raise_file_limit(&config);
    let (sender, receiver) = node::events();
    signals::forward(sender.clone()).map_err(MainError::Signals)?;
    Node::start(config, hash, log, (sender, receiver))?.run()?;
    info!("ended");
    Ok(())
}

/// The file's configuration with the arguments over it, and the file's hash.
fn configuration(arguments: Arguments) -> Result<(Config, String), MainError> {
    let Arguments { config: file, listen, memory, workers, health, admin } = arguments;
    let (mut config, hash) = match file {
        Some(file) => read(&file)?,
        None => (Config::default(), String::new()),
    };
    config.listen = listen.unwrap_or(config.listen);
    config.memory = memory.unwrap_or(config.memory);
    config.workers = workers.unwrap_or(config.workers);
    config.health = health.or(config.health);
    config.admin = admin.or(config.admin);
    config.check().map_err(|reason| match reason {
        ConfigError::Range { field, value, range, .. } => MainError::Range { field, value, range },
        reason => MainError::Arguments(reason),
    })?;
    Ok((config, hash))
}

fn read(file: &Path) -> Result<(Config, String), MainError> {
    let unreadable = |reason| MainError::Unreadable { file: file.to_owned(), reason };
    let text = fs::read_to_string(file).map_err(unreadable)?;
    let config = Config::parse(&text).map_err(|reason| MainError::Invalid { file: file.to_owned(), reason })?;
    Ok((config, Config::hash_of(&text)))
}

/// Every connection is an open file, and the usual limit of 1024 is below many a `maxConnections`.
fn raise_file_limit(config: &Config) {
    /// Files that are open beside the connections: the log, polls, wakers, listening sockets, the admin port's own.
    const OTHERS: u64 = 64;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!(%error, "the limit of open files cannot be raised");
    }
    let (limit, wanted) = (getrlimit(Resource::Nofile).current, u64::from(config.max_connections) + OTHERS);
    if limit.is_some_and(|limit| limit < wanted) {
        warn!(limit, wanted, "the limit of open files is below maxConnections; raise it (ulimit -n) or lower that");
    }
}
