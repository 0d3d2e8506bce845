//! The byte stream of one connection: plain, or TLS.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::clock::Instant;
use crate::tls::identities::Presence;
use crate::tls::stream::TlsStream;

/// What is dropped by one call of what a client sends after the end.
const DISCARDED_AT_ONCE: usize = 16 << 10;
/// Such calls in a row.
const MOST_DISCARDS: usize = 64;

/// Why a connection has had its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It is as old as `maxConnectionAge` allows.
    Aged,
    /// The certificate has expired by which its client was let in.
    Expired,
}

/// A connection to a client.
#[derive(Debug)]
pub enum Transport {
    /// In the clear.
    Plain(TcpStream),
    /// Within TLS, whose handshake is done.
    Tls(Box<TlsStream>),
}

impl Transport {
    /// Has readiness reported under `token`, in both directions and once for each change, so that no further call is
    /// needed while the connection lives.
    ///
    /// # Errors
    /// What the system says.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.socket(), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Has readiness reported no longer, so that the connection can be served elsewhere.
    ///
    /// # Errors
    /// What the system says.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(self.socket())
    }

    /// The other side's address.
    ///
    /// # Errors
    /// What the system says, such as that the other side is gone.
    pub fn client(&mut self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    /// Whether it is in the clear.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Transport::Plain(_))
    }

    /// Whether a read has something to tell that the kernel will not report.
    #[must_use]
    pub fn has_more(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.has_more(),
        }
    }

    /// Whether the client is still one of those who are let in.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        match self {
            Transport::Plain(_) => true,
            Transport::Tls(stream) => stream.presence().is_some_and(Presence::is_admitted),
        }
    }

    /// The name by which the client is let in; none in the clear.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.presence().map(Presence::name),
        }
    }

    /// Why the connection is to be closed between two requests by now; none: it may stay.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Due> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.due(now),
        }
    }

    /// Says to the client that nothing more comes, where the stream has a word for that.
    pub fn close(&mut self) {
        if let Transport::Tls(stream) = self {
            stream.close();
        }
    }

    /// As [`Transport::close`], and closes this side of the connection for good, while the client may still read.
    ///
    /// # Errors
    /// What the system says, such as that the client is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        self.close();
        self.socket().shutdown(Shutdown::Write)
    }

    /// Drops what the client has sent; says whether it may send more.
    pub fn discard(&mut self) -> bool {
        let mut bytes = [0; DISCARDED_AT_ONCE];
        for _ in 0..MOST_DISCARDS {
            match self.socket().read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        // Who sends so much does not listen.
        false
    }

    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.socket(),
        }
    }
}

impl Read for Transport {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.read(bytes),
            Transport::Tls(stream) => stream.read(bytes),
        }
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.read_vectored(slices),
            Transport::Tls(stream) => stream.read_vectored(slices),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.write(bytes),
            Transport::Tls(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.write_vectored(slices),
            Transport::Tls(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
