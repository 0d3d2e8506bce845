//! What clients may change about the node, where the configuration lets them: the log's level, and its end.

use std::io::{self, IsTerminal};
use std::sync::mpsc::Sender;

use tracing::{info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::node::Event;

/// The log's levels as `verbosity` numbers them; higher numbers are the last.
const LEVELS: [&str; 4] = ["warn", "info", "debug", "trace"];

/// The program's log, whose level can be changed while it runs.
#[derive(Clone, Debug)]
pub struct Log(reload::Handle<EnvFilter, Registry>);

impl Log {
    /// Starts to log to the standard error, as `RUST_LOG` says. To be called once.
    #[must_use]
    pub fn start() -> Log {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let (filter, handle) = reload::Layer::new(filter);
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        tracing_subscriber::registry().with(filter).with(lines).init();
        Log(handle)
    }

    fn set(&self, level: &str) {
        if let Err(error) = self.0.reload(EnvFilter::new(level)) {
            warn!(%error, level, "the log's level cannot be changed");
        }
    }
}

/// The ways to the rest of the program; without them a command has nothing to act on.
#[derive(Debug, Default)]
pub struct Control {
    log: Option<Log>,
    stop: Option<Sender<Event>>,
}

impl Control {
    /// The control over this log and over the node that listens at the other end of `stop`.
    #[must_use]
    pub fn new(log: Log, stop: Sender<Event>) -> Control {
        Control { log: Some(log), stop: Some(stop) }
    }

    /// Sets the log's level: 0 is warnings, 1 what happens to the node, 2 what happens to connections, more is everything.
    pub fn set_verbosity(&self, verbosity: u64) {
        let index = usize::try_from(verbosity).unwrap_or(usize::MAX).min(LEVELS.len() - 1);
        if let Some(log) = &self.log {
            log.set(LEVELS[index]);
        }
    }

    /// Lets the node drain and end.
    pub fn shut_down(&self) {
        info!("a client asks for the end of the node");
        if let Some(stop) = &self.stop {
            // Nobody listens any more where the node is ending already.
            drop(stop.send(Event::Drain));
        }
    }
}
