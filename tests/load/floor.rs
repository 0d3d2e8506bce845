//! The floor: a server that does nothing but what every server must. It looks for line ends and answers each with the same
//! bytes, as many as a hit has. What a cache takes beyond this is its own doing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use memchr::memchr_iter;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
const BUFFER: usize = 64 << 10;
/// Replies that are ready to be sent together, in bytes, unless one is longer.
const READY: usize = 256 << 10;
/// Connections at once.
const CONNECTIONS: usize = 20_000;

/// The reply to a get: key and value of these sizes.
pub fn reply(key_size: usize, value_size: usize) -> Vec<u8> {
    let header = format!("VALUE {} 0 {value_size}\r\n", "k".repeat(key_size));
    [header.as_bytes(), &vec![b'v'; value_size], b"\r\nEND\r\n"].concat()
}

/// Serves until the process is ended.
///
/// # Errors
/// Where the address cannot be listened on, or the system fails.
pub fn serve(address: SocketAddr, reply: &[u8]) -> io::Result<()> {
    let mut listener = TcpListener::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("{address} cannot be listened on: {error}")))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor {
        ready: reply.repeat((READY / reply.len()).max(1)),
        reply: reply.len(),
        connections: Vec::new(),
        free: Vec::new(),
        buffer: vec![0; BUFFER],
    };
    let mut events = Events::with_capacity(EVENTS);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                floor.accept(&listener, &poll)?;
            } else {
                floor.serve(event.token().0);
            }
        }
    }
}

struct Floor {
    /// Replies, one after the other.
    ready: Vec<u8>,
    reply: usize,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of replies that are still to be sent.
    owed: usize,
    /// How far the reply being sent has come.
    within: usize,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if self.connections.len() - self.free.len() >= CONNECTIONS {
                continue;
            }
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            self.connections[index] = Some(Connection { stream, owed: 0, within: 0 });
        }
    }

    fn serve(&mut self, index: usize) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        if connection.serve(&mut self.buffer, &self.ready, self.reply).is_err() {
            self.connections[index] = None;
            self.free.push(index);
        }
    }
}

impl Connection {
    fn serve(&mut self, buffer: &mut [u8], ready: &[u8], reply: usize) -> io::Result<()> {
        loop {
            // A reader that does not keep up is not read from.
            if !self.send(ready, reply)? {
                return Ok(());
            }
            let taken = match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(taken) => taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.owed += memchr_iter(b'\n', &buffer[..taken]).count() * reply;
            if taken < buffer.len() {
                // All that came is read; what comes later is another event. That includes its end.
                self.send(ready, reply)?;
                return Ok(());
            }
        }
    }

    /// # Returns
    /// Whether all is sent.
    fn send(&mut self, ready: &[u8], reply: usize) -> io::Result<bool> {
        while self.owed > 0 {
            let end = ready.len().min(self.within + self.owed);
            match self.stream.write(&ready[self.within..end]) {
                Ok(sent) => {
                    self.owed -= sent;
                    self.within = (self.within + sent) % reply;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::{reply, serve};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;

    #[test]
    fn each_line_end_is_answered() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        thread::spawn(move || serve(free, &reply(3, 5)));
        let mut stream = connect(free);
        stream.write_all(b"get a\r\nget b\r\nget").unwrap();
        let expected = b"VALUE kkk 0 5\r\nvvvvv\r\nEND\r\n".repeat(2);
        let mut found = vec![0; expected.len()];
        stream.read_exact(&mut found).unwrap();
        assert_eq!(found, expected);
        // More at once than the socket takes, from a reader that reads only afterwards.
        let lines = 50_000;
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || writer.write_all(&b"\r\n".repeat(lines)));
        let mut all = vec![0; expected.len() / 2 * lines];
        stream.read_exact(&mut all).unwrap();
        writing.join().unwrap().unwrap();
        assert!(all.chunks(expected.len() / 2).all(|one| one == &expected[..expected.len() / 2]));
    }

    fn connect(address: SocketAddr) -> TcpStream {
        loop {
            if let Ok(stream) = TcpStream::connect(address) {
                return stream;
            }
            thread::yield_now();
        }
    }
}
