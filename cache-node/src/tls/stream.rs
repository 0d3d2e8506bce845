//! A TLS byte stream on a socket that does not block.
//!
//! The library works on buffers of ours: a thread has one for all of its streams, so that a stream which is between two
//! records holds none, a read takes all that the socket has, and the replies of a whole batch are sealed into full
//! records and written by one call. What must be kept, the beginning of a record or what the socket did not take, is
//! counted in the budget of all buffers.
//!
//! To those who read and write, it is a socket:
//! - A read that gives less than it was asked for has given all that there was, and readiness will be reported anew. Where
//!   that is not so, [`TlsStream::has_more`] says so.
//! - A write that takes less than it was given has found the socket full. The next write must go on with the bytes that were
//!   not taken, because some of them are sealed already; it may have others behind them, and they may lie elsewhere.
//! - The vectored forms are the same, of the slices put together.

mod reading;
mod writing;

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;
use rustls::{HandshakeKind, ServerConfig};

use crate::buffers::Budget;
use crate::clock::Instant;
use crate::tls::identities::Presence;
use crate::transport::Due;

/// The longest record on the wire: 16 KiB, and what any cipher adds.
const LONGEST_RECORD: usize = (16 << 10) + 2048 + 5;
/// What one read takes at most, beside the beginning of a record from the read before.
const MOST_READ: usize = 64 << 10;
/// What is kept of a message that is not complete, in a handshake: a chain of certificates is the longest. The reserve of a
/// node's memory has room for so much for each handshake (`config::Budget`), so that clients who are not let in yet take
/// nothing of what those who are share.
const LONGEST_HANDSHAKE: usize = 24 << 10;
const SCRATCH: usize = MOST_READ + LONGEST_HANDSHAKE;

thread_local! {
    /// The thread's buffer of records: what lies in it is of no more use once a call returns.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// A stream, from its handshake to its end.
pub struct TlsStream {
    stream: TcpStream,
    session: UnbufferedServerConnection,
    /// Bytes of the beginning of a record, or of a message of the handshake.
    incoming: Vec<u8>,
    /// What was decrypted and not read yet, from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    /// What is to be sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// How many bytes that were given to be written are in `outgoing` and not yet reported as written: as long as not all
    /// is sent, the writer is told that nothing was taken, and keeps them.
    sealed: usize,
    /// The client has said, or the socket has, that nothing more comes.
    ended: bool,
    /// Why the session came to nothing, until a read has told it.
    failure: Option<io::Error>,
    /// It came to nothing: the library is not to be asked again.
    failed: bool,
    /// The client has sent something.
    begun: bool,
    /// The version of TLS in its first message: since 1.3 that of 1.2, and the true one stands elsewhere.
    offered: [u8; 2],
    /// A read gave less than it was asked for, though there may be more.
    interrupted: bool,
    budget: Arc<Budget>,
    /// What this stream has taken from the budget.
    counted: usize,
    admission: Option<Admission>,
}

/// What the client of a stream was let in for.
#[derive(Debug)]
pub struct Admission {
    /// Who it is.
    pub presence: Presence,
    /// When the connection is old enough to be closed; none: never.
    pub aged: Option<Instant>,
    /// When its certificate will have expired.
    pub expired: Instant,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsStream of {:?}", self.admission)
    }
}

/// Why a handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client speaks in the clear.
    #[error("the client does not speak TLS")]
    Plaintext,
    /// The client speaks no version that is spoken here.
    #[error("the client speaks no TLS newer than 1.1: {0}")]
    Version(rustls::Error),
    /// The client closed, or the network did.
    #[error("the connection ended: {0}")]
    Connection(#[from] io::Error),
    /// TLS could not be agreed on.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// How a session stands once all records that came are worked off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Handshaking,
    Open,
    Closed,
}

impl TlsStream {
    /// A stream whose handshake begins.
    ///
    /// # Errors
    /// What the library says.
    pub fn new(stream: TcpStream, config: Arc<ServerConfig>, budget: Arc<Budget>) -> Result<TlsStream, rustls::Error> {
        Ok(TlsStream {
            stream,
            session: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            sent: 0,
            sealed: 0,
            ended: false,
            failure: None,
            failed: false,
            begun: false,
            offered: TLS_1_2,
            interrupted: false,
            budget,
            counted: 0,
            admission: None,
        })
    }

    /// The socket.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The client's certificates, once the handshake is done.
    #[must_use]
    pub fn chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.session.peer_certificates()
    }

    /// Whether the client came with a ticket.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.session.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Goes on with the handshake as far as the client has; says whether it is done. What came behind it is kept.
    ///
    /// # Errors
    /// [`HandshakeError`]; the client was told why.
    pub fn handshake(&mut self) -> Result<bool, HandshakeError> {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                self.flush_outgoing()?;
                let (begun, count) = match self.fill(buffer, MOST_READ) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                    filled => filled?,
                };
                if count == 0 {
                    return Err(HandshakeError::Connection(ErrorKind::UnexpectedEof.into()));
                }
                if !std::mem::replace(&mut self.begun, true) {
                    if buffer.first() != Some(&HANDSHAKE_RECORD) {
                        self.refuse_plaintext();
                        return Err(HandshakeError::Plaintext);
                    }
                    if count >= VERSION_AT + 2 {
                        self.offered = [buffer[VERSION_AT], buffer[VERSION_AT + 1]];
                    }
                }
                let worked = self.work_off(buffer, begun + count, &mut []);
                self.count_held();
                // An alert says to the client why there will be no session.
                let flushed = self.flush_outgoing();
                let standing = worked.map_err(|(error, _)| match error {
                    rustls::Error::PeerIncompatible(_) if self.offered < TLS_1_2 => HandshakeError::Version(error),
                    error => HandshakeError::Tls(error),
                })?;
                flushed?;
                match standing.0 {
                    Standing::Handshaking if self.incoming.len() >= LONGEST_HANDSHAKE => {
                        return Err(HandshakeError::Tls(rustls::Error::General("a message without end".to_owned())));
                    }
                    Standing::Handshaking => {}
                    Standing::Open => return Ok(true),
                    Standing::Closed => return Err(HandshakeError::Connection(ErrorKind::ConnectionAborted.into())),
                }
            }
        })
    }

    /// The client is let in; what the stream holds is counted from now on.
    pub fn admit(&mut self, admission: Admission) {
        self.admission = Some(admission);
        self.count_held();
    }

    /// Who the client is; none during the handshake.
    #[must_use]
    pub fn presence(&self) -> Option<&Presence> {
        self.admission.as_ref().map(|admission| &admission.presence)
    }

    /// Why the connection is to end by now, if it is.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Due> {
        let Admission { presence: _, aged, expired } = self.admission.as_ref()?;
        if now >= *expired { Some(Due::Expired) } else { aged.is_some_and(|aged| now >= aged).then_some(Due::Aged) }
    }

    /// Whether a read has something to report although the socket may have nothing: what was decrypted, or the end.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.interrupted || self.ended || self.failure.is_some() || self.taken < self.plain.len()
    }

    /// Says to the client that nothing more comes, as far as the socket takes it.
    pub fn close(&mut self) {
        if self.failed {
            return;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut incoming = std::mem::take(&mut self.incoming);
            let status = self.session.process_tls_records(&mut incoming);
            if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
                && let Ok(length) = traffic.queue_close_notify(buffer)
            {
                self.outgoing.extend_from_slice(&buffer[..length]);
            }
        });
        // The connection ends, whether the client hears of it or not.
        drop(self.flush_outgoing());
    }

    /// Counts what is held now, and gives the rest of what was taken back to the budget.
    fn count_held(&mut self) {
        if self.admission.is_none() {
            return;
        }
        let held = self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity();
        if held > self.counted {
            self.budget.take_anyway(held - self.counted);
        } else {
            self.budget.give_back(self.counted - held);
        }
        self.counted = held;
    }

    fn refuse_plaintext(&mut self) {
        // Who sees it knows; the connection ends either way.
        drop(self.stream.write(b"SERVER_ERROR this port speaks TLS\r\n"));
    }
}

/// The first byte of every handshake: the type of the record that holds the client's first message.
pub const HANDSHAKE_RECORD: u8 = 0x16;
/// Where the version stands in that record: behind the heads of record and message.
const VERSION_AT: usize = 5 + 4;
const TLS_1_2: [u8; 2] = [3, 3];

impl Drop for TlsStream {
    fn drop(&mut self) {
        self.budget.give_back(self.counted);
    }
}
