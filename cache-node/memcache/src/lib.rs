//! The memcached text protocol: bytes to commands, replies to bytes.
//!
//! Pure: nothing here knows of sockets, of storage or of time. What is read and how errors are worded follows memcached
//! 1.6.18 (its `protocol.txt`, and where that is silent its behaviour), so that clients cannot tell the difference.

mod command;
mod meta;
mod number;
mod parse;
mod ping;
mod plain;
mod reply;
mod streams;

pub use command::{Command, Rejection, Span, Verb};
pub use meta::{MetaFlags, MetaOptions, MetaVerb};
pub use parse::{LONGEST_LINE, LONGEST_RETRIEVAL, Limits, MAX_KEY_LENGTH, Protocol, Step, parse};
pub use plain::Announced;
pub use reply::{Reply, write_number, write_value_head};
pub use streams::Streams;
