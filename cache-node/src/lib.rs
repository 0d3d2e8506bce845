//! The server's parts. The program is [`node::Node`] with its arguments (`main.rs`); what a library is needed for is
//! [`conversation`], by which tests and fuzzing reach the request path without a socket.

/// What `version` answers. Clients choose by it what they may ask for, so it begins with the version of memcached whose
/// behaviour this is; who reads on learns what it really is.
macro_rules! version {
    () => {
        concat!("1.6.18-gannet-", env!("CARGO_PKG_VERSION"))
    };
}

mod admin;
mod atomics;
mod balance;
mod bell;
mod buffers;
mod clock;
mod connections;
pub mod control;
pub mod conversation;
mod discovery;
mod execute;
mod exposition;
mod kind;
mod latency;
mod link;
mod listener;
mod meta;
mod metrics;
#[cfg(feature = "misbehave")]
mod misbehave;
pub mod node;
mod observed;
mod pinning;
mod service;
mod session;
pub mod signals;
mod slow;
mod statistics;
mod storage;
mod tls;
mod transport;
mod volume;
mod watch;
mod worker;
