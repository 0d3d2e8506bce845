//! Why connections end.

use std::io;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Ending {
    #[error("the client asked for it, or closed")]
    Client,
    #[error("the node drains")]
    Drained,
    #[error("a line did not end")]
    LineTooLong,
    #[error("nothing came for longer than idleTimeout")]
    Idle,
    #[error("it held buffers that others waited for")]
    Stalled,
    #[error("it was as old as maxConnectionAge allows")]
    Aged,
    #[error("the client's certificate has expired")]
    Expired,
    #[error("its certificate is not trusted any more")]
    Untrusted,
    #[error("the client speaks TLS, and this port does not")]
    Tls,
    #[error("the connection failed: {0}")]
    Broken(io::Error),
}

impl Ending {
    /// Whether the client has done nothing wrong and is to get everything that was sent to it.
    pub fn is_gentle(&self) -> bool {
        matches!(self, Ending::Drained | Ending::Idle | Ending::Aged | Ending::Expired)
    }

    /// As watchers are told.
    pub fn word(&self) -> &'static str {
        match self {
            Ending::Client => "normal",
            Ending::Drained => "drained",
            Ending::LineTooLong => "line_too_long",
            Ending::Idle => "idle_timeout",
            Ending::Stalled => "stalled",
            Ending::Aged => "age",
            Ending::Expired => "expired",
            Ending::Untrusted => "untrusted",
            Ending::Tls => "tls",
            Ending::Broken(_) => "error",
        }
    }
}
