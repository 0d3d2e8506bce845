//! The arguments of `load run`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use config::Duration as Span;

use crate::distribution::{Popularity, Size};
use crate::floor;
use crate::keyspace::Keyspace;
use crate::plan::{Reconnect, Settings};
use crate::profile::Profile;
use crate::reply::Validation;
use crate::request::{Encoder, Kind, Protocol};
use crate::transport::IdentityFiles;
use crate::ttl::Ttl;
use crate::workload::{Mix, Shape};

/// Ask a server for keys and time its answers.
///
/// Without --rate, each connection sends its next requests when it has the replies to those before (closed loop).
/// With --rate, requests are sent when they are due, and latency counts from then on, not from when one could be sent (open
/// loop): a server that stalls is charged for everything that waited.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Options {
    /// A server, as HOST:PORT; several share the keys by a ring of hashes
    #[arg(long = "server", value_name = "ADDR", default_value = "127.0.0.1:11211")]
    pub servers: Vec<String>,
    /// Connections to each server
    #[arg(long, short, value_name = "N", default_value_t = 50, value_parser = count(20_000))]
    connections: u32,
    /// Threads, which share the connections
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = count(64))]
    threads: u32,
    /// Requests on their way at once on each connection; in a closed loop they are sent together
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = count(10_000))]
    pipeline: u32,
    /// Requests a second to all servers together (open loop)
    #[arg(long, short, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Requests are due at random (a Poisson process), not evenly spaced
    #[arg(long, requires = "rate")]
    poisson: bool,
    /// How long to measure, such as 10s or 5m; 0 until interrupted
    #[arg(long, short, value_name = "TIME", default_value = "10s")]
    pub duration: Span,
    /// How long to load the servers before that
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub warmup: Span,
    /// The number of keys
    #[arg(long, short, value_name = "N", default_value_t = 100_000, value_parser = count(100_000_000))]
    keys: u32,
    /// How often each is asked for: uniform, or zipf:ALPHA
    #[arg(long, value_name = "SHAPE", default_value = "uniform")]
    popularity: Popularity,
    /// Bytes of a key: N, uniform:A-B or lognormal:MEAN,SIGMA
    #[arg(long, value_name = "SIZE", default_value = "14")]
    key_size: Size,
    /// Bytes of a value: N, uniform:A-B or lognormal:MEAN,SIGMA
    #[arg(long, short, value_name = "SIZE", default_value = "100")]
    value_size: Size,
    /// What keys begin with
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// Shares of get, gets, gat, multiget, set, add, delete, touch, ping
    #[arg(long, short, value_name = "MIX", default_value = "get=90,set=10")]
    mix: Mix,
    /// Keys of one multiget
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count(1000))]
    multiget: u32,
    /// TTL of what is stored and touched: 0 (for ever), 30m, or several with their shares as 60s:0.4,1h:0.6
    #[arg(long, value_name = "TTL", default_value = "0")]
    ttl: Ttl,
    /// Sizes, mix, popularity and TTLs of a production cluster: a file with their table, and the row
    #[arg(long, value_name = "FILE#CLUSTER", conflicts_with_all = ["popularity", "key_size", "value_size", "mix", "ttl"])]
    profile: Option<String>,
    /// How requests are worded
    #[arg(long, value_enum, default_value = "classic")]
    protocol: Protocol,
    /// Which values are compared byte by byte with what was stored
    #[arg(long, value_enum, default_value = "always")]
    validate: Validation,
    /// Do not store the keys at first
    #[arg(long)]
    pub no_fill: bool,
    /// Store a key that was asked for and is not there, as a cache's user does
    #[arg(long)]
    set_on_miss: bool,
    /// What follows on a lost connection
    #[arg(long, value_enum, default_value = "backoff")]
    reconnect: Reconnect,
    /// A connection without a reply for so long is given up
    #[arg(long, value_name = "TIME", default_value = "5s")]
    timeout: Span,
    /// How long to wait for a connection
    #[arg(long, value_name = "TIME", default_value = "5s")]
    connect_timeout: Span,
    /// Where randomness begins: the same seed, the same requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// TLS, trusting the certificates in this file (PEM)
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client's certificate chain (PEM); read again when it has changed
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key to it (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that the server's certificate must have, if not that of its address
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_name: Option<String>,
    /// Also tell what this process of the server uses, by its id
    #[arg(long, value_name = "PID")]
    pub measure: Option<u32>,
    /// Write everything that was counted, as JSON; - is the standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a plot of the latencies, as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// No table and no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// What the options come to.
#[derive(Debug)]
pub struct Parts {
    pub keyspace: Keyspace,
    pub shape: Shape,
    pub settings: Settings,
    /// What the reader of a report must know of a modelled workload.
    pub notes: Vec<String>,
}

impl Options {
    /// # Errors
    /// In words, where the options contradict each other.
    pub fn parts(&self) -> Result<Parts, String> {
        let mut notes = Vec::new();
        let profile = self.profile.as_deref().map(read_profile).transpose()?;
        if let (Some(profile), Some(name)) = (&profile, &self.profile) {
            notes.push(format!(
                "modelled on {name}: keys of {} bytes, values of {}, {}, TTL {}; the table has means, the shape around them is assumed",
                profile.key_size, profile.value_size, profile.popularity, profile.ttl
            ));
            notes.extend(profile.replaced.iter().map(|what| format!("commands replaced: {what}")));
        }
        let own = || Profile {
            key_size: self.key_size.clone(),
            value_size: self.value_size.clone(),
            popularity: self.popularity,
            mix: self.mix.clone(),
            ttl: self.ttl.clone(),
            replaced: Vec::new(),
        };
        let Profile { key_size, value_size, popularity, mut mix, ttl, .. } = profile.unwrap_or_else(own);
        self.check(&mix)?;
        if self.protocol == Protocol::Ping {
            mix = Mix(vec![(Kind::Ping, 1.0)]);
        }
        let keyspace = Keyspace::new(&self.prefix, &key_size, &value_size, self.protocol == Protocol::Floor)?;
        let floor_reply = floor::reply(key_size.largest(), value_size.largest()).len();
        let multiget = self.multiget as usize;
        let shape = Shape { keys: self.keys, popularity, mix, multiget, seed: self.seed };
        let pair = self.tls_cert.clone().zip(self.tls_key.clone());
        let tls = self.tls_ca.clone().map(|ca| IdentityFiles { ca, pair, name: self.tls_name.clone() });
        let settings = Settings {
            encoder: Encoder { protocol: self.protocol, ttl },
            validation: self.validate,
            floor_reply,
            connections: self.connections as usize,
            threads: self.threads as usize,
            pipeline: self.pipeline as usize,
            rate: self.rate,
            poisson: self.poisson,
            multiget,
            refill: self.set_on_miss,
            reconnect: self.reconnect,
            timeout: self.timeout.0,
            connect_timeout: self.connect_timeout.0,
            tls,
        };
        Ok(Parts { keyspace, shape, settings, notes })
    }

    fn check(&self, mix: &Mix) -> Result<(), String> {
        if self.threads > self.connections {
            return Err(format!("--threads {} share --connections {}: use fewer", self.threads, self.connections));
        }
        let asks_for = |kind| mix.0.iter().any(|&(asked, _)| asked == kind);
        if asks_for(Kind::MultiGet) && self.protocol != Protocol::Classic {
            return Err("--mix multiget: only the classic protocol asks for several keys at once".to_owned());
        }
        if asks_for(Kind::Ping) && self.protocol != Protocol::Ping {
            return Err("--mix ping: use --protocol ping".to_owned());
        }
        if self.protocol == Protocol::Floor && (asks_for(Kind::MultiGet) || !is_fixed(&self.value_size)) {
            return Err(
                "--protocol floor: its replies all have one size; use a fixed --value-size and no multiget".to_owned()
            );
        }
        Ok(())
    }

    /// Whether keys are stored at first.
    pub fn fills(&self) -> bool {
        !self.no_fill && matches!(self.protocol, Protocol::Classic | Protocol::Meta)
    }

    /// How long is measured; a run until it is interrupted ends after a year.
    pub fn measured(&self) -> Duration {
        const YEAR: Duration = Duration::from_secs(365 * 86_400);
        if self.duration.0.is_zero() { YEAR } else { self.duration.0 }
    }
}

fn is_fixed(size: &Size) -> bool {
    matches!(size, Size::Fixed(_))
}

fn read_profile(name: &str) -> Result<Profile, String> {
    let (file, cluster) = name.rsplit_once('#').ok_or_else(|| format!("--profile {name}: write FILE#CLUSTER"))?;
    let table = fs::read_to_string(file).map_err(|error| format!("--profile {file}: {error}"))?;
    Profile::parse(&table, cluster).map_err(|error| format!("--profile {file}: {error}"))
}

fn count(most: u32) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(most))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e8).contains(rate));
    rate.ok_or_else(|| "write a number of requests a second, above 0".to_owned())
}
