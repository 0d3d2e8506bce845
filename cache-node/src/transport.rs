//! The byte stream of one connection.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// A connection to a client.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
}

impl Transport {
    /// A plain connection.
    #[must_use]
    pub fn plain(stream: TcpStream) -> Transport {
        Transport { stream }
    }

    /// Has readiness reported under `token`, in both directions and once for each change, so that no further call is
    /// needed while the connection lives.
    ///
    /// # Errors
    /// What the system says.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Has readiness reported no longer, so that the connection can be served elsewhere.
    ///
    /// # Errors
    /// What the system says.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.stream)
    }

    /// The other side's address.
    ///
    /// # Errors
    /// What the system says, such as that the other side is gone.
    pub fn client(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl Read for Transport {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.stream.read_vectored(slices)
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
