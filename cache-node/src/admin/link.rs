//! A connection to the health or the admin port, in the clear or within TLS, for a limited time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{self, Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tracing::debug;

/// A connection ends after so long, so that clients who do nothing cannot keep others out.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);
/// How long a handshake may take.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);

/// One connection.
pub struct Link {
    stream: Stream,
    end: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The handshake belongs to the connection and not to who accepts it: one that stalls holds up no other.
enum Stream {
    Plain(TcpStream),
    Handshake(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    Refused,
}

impl Link {
    /// A connection that counts as one of those that `permit` limits.
    #[must_use]
    pub fn new(stream: TcpStream, tls: Option<Arc<ServerConfig>>, permit: Option<OwnedSemaphorePermit>) -> Link {
        let limit = if tls.is_some() { LONGEST_HANDSHAKE } else { LONGEST_CONNECTION };
        let stream = match tls {
            Some(config) => Stream::Handshake(Box::new(TlsAcceptor::from(config).accept(stream))),
            None => Stream::Plain(stream),
        };
        Link { stream, end: Box::pin(time::sleep(limit)), _permit: permit }
    }

    /// The time, and then the handshake, before anything else.
    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(task).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let Stream::Handshake(accept) = &mut self.stream else { return Poll::Ready(Ok(())) };
        match ready!(Pin::new(accept.as_mut()).poll(task)) {
            Ok(stream) => {
                self.stream = Stream::Tls(Box::new(stream));
                self.end.as_mut().reset(Instant::now() + LONGEST_CONNECTION);
                // The new time must wake this task too.
                self.poll_ready(task)
            }
            Err(error) => {
                debug!("a TLS handshake with the admin port failed: {error}");
                self.stream = Stream::Refused;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(task))?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(task, buffer),
            Stream::Handshake(_) | Stream::Refused => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(task))?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(task, bytes),
            Stream::Handshake(_) | Stream::Refused => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(task),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(task),
            Stream::Handshake(_) | Stream::Refused => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(task),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(task),
            Stream::Handshake(_) | Stream::Refused => Poll::Ready(Ok(())),
        }
    }
}
