//! One connection to a server.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use crate::reply::{Expected, Outcome, Parser, Pending, Violation};
use crate::request::Output;
use crate::transport::Transport;

/// A connection, made or to be made.
#[derive(Debug)]
pub struct Connection {
    /// Whose server it leads to: an index of the driver's lanes.
    pub lane: usize,
    pub state: State,
    pub output: Output,
    pub pending: VecDeque<Pending>,
    parser: Parser,
    /// The beginning of a reply's line.
    partial: Vec<u8>,
    /// Failures to connect in a row.
    pub attempts: u32,
    /// Whether it was made before.
    pub was_up: bool,
    /// Whether a reply came since it was made.
    pub has_answered: bool,
    /// When the last reply came, or the first request was sent to which there is none yet.
    pub progress: u64,
}

#[derive(Debug)]
pub enum State {
    /// To be made at this time (nanoseconds).
    Down {
        retry: u64,
    },
    /// Being made since then.
    Connecting {
        transport: Transport,
        since: u64,
    },
    Up {
        transport: Transport,
    },
    /// Not to be made again.
    Lost,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Loss {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no connection within the time-out")]
    ConnectTimeout,
    #[error("the server closed the connection")]
    Closed,
    #[error("connection lost: {0}")]
    Io(io::Error),
    #[error("no reply within the time-out")]
    Timeout,
    #[error("wrong reply: {0}")]
    Violation(#[from] Violation),
}

impl Connection {
    pub fn new(lane: usize) -> Connection {
        Connection {
            lane,
            state: State::Down { retry: 0 },
            output: Output::default(),
            pending: VecDeque::new(),
            parser: Parser::default(),
            partial: Vec::new(),
            attempts: 0,
            was_up: false,
            has_answered: false,
            progress: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// A request was appended to the output.
    pub fn expect(&mut self, request: Pending) {
        self.pending.push_back(request);
    }

    /// Forgets what belonged to the connection that ended, but for the requests to which there was no reply.
    pub fn reset(&mut self) {
        self.output.clear();
        self.partial.clear();
        self.parser = Parser::default();
        self.has_answered = false;
    }

    /// Sends what the server's window takes.
    ///
    /// # Returns
    /// The number of bytes.
    ///
    /// # Errors
    /// Why the connection ended.
    pub fn send(&mut self, pad: &[u8]) -> Result<u64, Loss> {
        let State::Up { transport } = &mut self.state else { return Ok(0) };
        let mut sent = 0;
        while !self.output.is_empty() {
            let result = match self.output.only(pad) {
                Some(bytes) => transport.write(bytes),
                None => transport.write_vectored(&self.output.slices(pad)),
            };
            match result {
                Ok(taken) => {
                    self.output.advance(taken);
                    sent += taken as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sent),
                Err(error) => return Err(Loss::Io(error)),
            }
        }
        transport.flush().map_err(Loss::Io)?;
        Ok(sent)
    }

    /// Takes the replies that have come, until there are none; where the server has closed, until its end is read.
    /// `clock` is read once for what came together.
    ///
    /// # Returns
    /// The number of bytes.
    ///
    /// # Errors
    /// Why the connection ended; the replies before that were given to `done`.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        expected: &Expected<'_>,
        closed: bool,
        clock: impl Fn() -> u64,
        mut done: impl FnMut(Pending, Outcome, u64),
    ) -> Result<u64, Loss> {
        let State::Up { transport } = &mut self.state else { return Ok(0) };
        let mut received = 0;
        loop {
            let before = self.partial.len();
            buffer[..before].copy_from_slice(&self.partial);
            let taken = match transport.read(&mut buffer[before..]) {
                Ok(0) => return Err(Loss::Closed),
                Ok(taken) => taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(received),
                Err(error) => return Err(Loss::Io(error)),
            };
            received += taken as u64;
            let filled = &buffer[..before + taken];
            let now = clock();
            self.progress = now;
            self.has_answered = true;
            let used =
                self.parser.feed(filled, &mut self.pending, expected, |asked, outcome| done(asked, outcome, now))?;
            self.partial.clear();
            self.partial.extend_from_slice(&filled[used..]);
            if !closed && transport.is_drained_by(taken, buffer.len() - before) {
                return Ok(received);
            }
        }
    }
}
