//! The byte stream of one connection: plain, or TLS.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::clock::Instant;
use crate::tls::stream::TlsStream;

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
            Transport::Tls(stream) => stream.presence.as_ref().is_some_and(|presence| presence.is_admitted()),
        }
    }

    /// The name by which the client is let in; none in the clear.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.presence.as_ref().map(|presence| presence.name()),
        }
    }

    /// Whether the connection is old enough to be closed between two requests.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.due.is_some_and(|due| now >= due),
        }
    }

    /// Says to the client that nothing more comes, where the stream has a word for that.
    pub fn close(&mut self) {
        if let Transport::Tls(stream) = self {
            stream.close();
        }
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
