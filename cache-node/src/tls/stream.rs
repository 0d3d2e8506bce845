//! A TLS byte stream on a socket that does not block.
//!
//! The library works on buffers of ours: a thread has one for all of its streams, so that a stream which is between two
//! records holds none, a read takes all that the socket has, and the replies of a whole batch are sealed into full
//! records and written by one call. What must be kept, the beginning of a record or what the socket did not take, is
//! counted in the budget of all buffers.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::HandshakeKind;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};

use crate::buffers::Budget;
use crate::clock::Instant;
use crate::tls::identities::Presence;

/// The longest record on the wire: 16 KiB, and what any cipher adds.
const LONGEST_RECORD: usize = (16 << 10) + 2048 + 5;
/// What one read takes at most, beside the beginning of a record from the read before.
const MOST_READ: usize = 64 << 10;
/// What a read takes beyond what was asked for, so that the overhead of records is no reason for another read.
const READ_AHEAD: usize = 1 << 10;
/// What a stream may hold after a read: what was read ahead, and the beginning of a record.
const MOST_HELD: usize = LONGEST_RECORD + READ_AHEAD;
/// What is sealed at once.
const MOST_SEALED: usize = 64 << 10;
/// What is sealed whatever the budget says, so that a stream always gets on.
const LEAST_SEALED: usize = 1 << 10;
/// What sealing adds at most: to each of four full records and a last one.
const SEALING: usize = 5 * 64;
/// The longest message of a handshake that is waited for: a chain of certificates.
const LONGEST_HANDSHAKE: usize = 64 << 10;
const SCRATCH: usize = MOST_READ + LONGEST_HANDSHAKE;

thread_local! {
    /// The thread's buffer: what lies in it is of no more use once a call returns.
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
    /// Who the client is; none during the handshake.
    pub presence: Option<Presence>,
    /// When the connection is old enough to be closed; none: never.
    pub due: Option<Instant>,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsStream of {:?}", self.presence)
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
            presence: None,
            due: None,
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

    /// Reads from the socket into `buffer`, behind the beginning of a record that was kept; returns the length of that
    /// and the number of bytes that came.
    fn fill(&mut self, buffer: &mut [u8], most: usize) -> io::Result<(usize, usize)> {
        let begun = self.incoming.len();
        buffer[..begun].copy_from_slice(&self.incoming);
        let end = buffer.len().min(begun + most);
        loop {
            match self.stream.read(&mut buffer[begun..end]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return Ok((begun, read?)),
            }
        }
    }

    /// Works off the records in `buffer[..filled]`: what they hold goes to `out` and, where that is full, is kept, as is
    /// the beginning of a record at the end. Returns how the session stands and how much went to `out`.
    fn work_off(
        &mut self,
        buffer: &mut [u8],
        filled: usize,
        out: &mut [u8],
    ) -> Result<(Standing, usize), (rustls::Error, usize)> {
        let TlsStream { session, plain, outgoing, ended, .. } = self;
        let (mut done, mut given) = (0, 0);
        let mut failure = None;
        let standing = loop {
            let UnbufferedStatus { discard, state } = session.process_tls_records(&mut buffer[done..filled]);
            let mut read = 0;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let Ok(record) = record else { break };
                        read += record.discard;
                        let direct = record.payload.len().min(out.len() - given);
                        out[given..given + direct].copy_from_slice(&record.payload[..direct]);
                        given += direct;
                        plain.extend_from_slice(&record.payload[direct..]);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, outgoing),
                // What is encoded lies in `outgoing`, and nothing gets in before it.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => *ended = true,
                Ok(ConnectionState::WriteTraffic(_)) => break Some((discard, Standing::Open)),
                Ok(ConnectionState::BlockedHandshake) => break Some((discard, Standing::Handshaking)),
                Ok(_) => break Some((discard, Standing::Closed)),
                // The alert that says so to the client comes out next.
                Err(error) if failure.is_none() => failure = Some(error),
                Err(_) => break None,
            }
            done += discard + read;
        };
        let (discard, standing) = standing.unwrap_or((0, Standing::Closed));
        done += discard;
        // The library counts on it that these bytes come again, also when nothing follows them.
        if done < filled {
            self.incoming.clear();
            self.incoming.extend_from_slice(&buffer[done..filled]);
        } else if self.incoming.capacity() > 0 {
            self.incoming = Vec::new();
        }
        match failure {
            None => Ok((standing, given)),
            Some(error) => {
                self.failed = true;
                Err((error, given))
            }
        }
    }

    /// Gives what is decrypted to a reader.
    fn take_plain(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.plain.len() - self.taken);
        if count > 0 {
            out[..count].copy_from_slice(&self.plain[self.taken..self.taken + count]);
            self.taken += count;
            if self.taken == self.plain.len() {
                (self.plain, self.taken) = (Vec::new(), 0);
                self.count_held();
            }
        }
        count
    }

    /// Takes from the budget what a read may leave here.
    fn reserve(&mut self) -> bool {
        let missing = MOST_HELD.saturating_sub(self.counted);
        let taken = missing == 0 || self.budget.take(missing);
        self.counted += if taken { missing } else { 0 };
        taken
    }

    /// Counts what is held now, and gives the rest of what was taken back to the budget.
    fn count_held(&mut self) {
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

    fn flush_outgoing(&mut self) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.outgoing.capacity() > 0 {
            (self.outgoing, self.sent) = (Vec::new(), 0);
            self.count_held();
        }
        Ok(())
    }

    /// Seals and writes as many bytes as are sealed at once.
    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush_outgoing()?;
        if self.sealed > 0 {
            return Ok(std::mem::take(&mut self.sealed).min(bytes.len()));
        }
        let mut length = bytes.len().min(MOST_SEALED);
        // What the socket does not take must be kept, so there must be memory for all of it.
        while length > LEAST_SEALED && !self.budget.has_room(length + SEALING) {
            length = (length / 4).max(LEAST_SEALED);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let sealed = self.seal(&bytes[..length], buffer)?;
            // What the session itself had to say comes first.
            if !self.outgoing.is_empty() {
                self.outgoing.extend_from_slice(&buffer[..sealed]);
                self.sealed = length;
                self.count_held();
                self.flush_outgoing()?;
                return Ok(std::mem::take(&mut self.sealed));
            }
            let mut sent = 0;
            while sent < sealed {
                match self.stream.write(&buffer[sent..sealed]) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.outgoing = buffer[sent..sealed].to_vec();
                        self.sealed = length;
                        self.count_held();
                        return Err(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(length)
        })
    }

    /// Seals `bytes` into `buffer`; returns how long that is.
    fn seal(&mut self, bytes: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        let TlsStream { session, incoming, outgoing, .. } = self;
        if self.failed {
            return Err(ErrorKind::NotConnected.into());
        }
        loop {
            let status = session.process_tls_records(incoming);
            match status.state.map_err(io::Error::other)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return traffic.encrypt(bytes, buffer).map_err(|error| match error {
                        EncryptError::InsufficientSize(_) => io::Error::other("a record is longer than it may be"),
                        EncryptError::EncryptExhausted => io::Error::other("the keys are used up"),
                    });
                }
                ConnectionState::EncodeTlsData(data) => encode(data, outgoing),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => {}
                _ => return Err(ErrorKind::NotConnected.into()),
            }
        }
    }
}

/// The first byte of every handshake: the type of the record that holds the client's first message.
pub const HANDSHAKE_RECORD: u8 = 0x16;
/// Where the version stands in that record: behind the heads of record and message.
const VERSION_AT: usize = 5 + 4;
const TLS_1_2: [u8; 2] = [3, 3];

impl Read for TlsStream {
    /// Fills one slice after the other, so that fewer bytes than there is room for are all that there were here too.
    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut given = 0;
        for slice in slices.iter_mut().filter(|slice| !slice.is_empty()) {
            match self.read(slice) {
                Ok(count) if count < slice.len() => return Ok(given + count),
                Ok(count) => given += count,
                Err(error) if given == 0 => return Err(error),
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock && error.kind() != ErrorKind::OutOfMemory {
                        self.failure.get_or_insert(error);
                    }
                    break;
                }
            }
        }
        Ok(given)
    }

    /// As for a socket: fewer bytes than asked for are all that there were, unless [`TlsStream::has_more`].
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.interrupted = false;
        let mut given = self.take_plain(out);
        while given < out.len() && !self.ended && !self.failed {
            if !self.reserve() {
                self.interrupted = true;
                return if given > 0 { Ok(given) } else { Err(ErrorKind::OutOfMemory.into()) };
            }
            let step: io::Result<_> = BUFFER.with_borrow_mut(|buffer| {
                let most = (out.len() - given + READ_AHEAD).min(MOST_READ);
                let (begun, count) = self.fill(buffer, most)?;
                self.ended |= count == 0;
                let worked = self.work_off(buffer, begun + count, &mut out[given..]);
                let more = match worked {
                    Ok((_, more)) => more,
                    Err((error, more)) => {
                        self.failure = Some(io::Error::other(error));
                        more
                    }
                };
                Ok((more, count < most))
            });
            self.count_held();
            match step {
                Ok((more, drained)) => {
                    given += more;
                    // With nothing to give, the end may be what is left to read, and was reported already.
                    if drained && given > 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.failed = true;
                    self.failure = Some(error);
                }
            }
        }
        // Such as the answer to a key update, or an alert; if the socket is full it goes with the next reply.
        if self.sealed == 0
            && let Err(error) = self.flush_outgoing()
            && error.kind() != ErrorKind::WouldBlock
        {
            self.failure.get_or_insert(error);
        }
        match (given, self.failure.take()) {
            (0, Some(error)) => Err(error),
            (0, None) if self.ended => Ok(0),
            (0, None) => Err(ErrorKind::WouldBlock.into()),
            (given, failure) => {
                self.failure = failure;
                Ok(given)
            }
        }
    }
}

impl Write for TlsStream {
    /// Takes of all slices what the socket takes; what is short is put together, so that it shares records.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut taken, mut gathered) = (0, Vec::new());
        loop {
            gathered.clear();
            let (mut skip, mut whole): (usize, &[u8]) = (taken, &[]);
            for slice in slices {
                let part = slice.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(slice.len());
                if gathered.is_empty() && part.len() >= MOST_SEALED {
                    whole = part;
                    break;
                }
                gathered.extend_from_slice(&part[..part.len().min(MOST_SEALED - gathered.len())]);
            }
            let bytes = if gathered.is_empty() { whole } else { &gathered };
            if bytes.is_empty() {
                return Ok(taken);
            }
            match self.write_once(bytes) {
                Ok(count) => taken += count,
                Err(_) if taken > 0 => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
    }

    /// As for a socket: fewer bytes than given are all that it takes now. After that, as after [`ErrorKind::WouldBlock`], the
    /// next call must go on with the bytes that were not taken, because some of them are sealed already.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.write_once(&bytes[taken..]) {
                Ok(count) => taken += count,
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        self.budget.give_back(self.counted);
    }
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) {
    let start = outgoing.len();
    // Asked without room, it says how much it needs.
    if let Err(EncodeError::InsufficientSize(error)) = data.encode(&mut []) {
        outgoing.resize(start + error.required_size, 0);
        let encoded = data.encode(&mut outgoing[start..]);
        debug_assert!(encoded.is_ok(), "it was given what it asked for");
    }
}
