//! The listener thread: accepts connections, keeps to the limit, and hands over to the least loaded worker.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use memcache::Reply;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

use crate::metrics::{Counters, Metrics, Phase};

/// Connections that the kernel keeps for the listener.
pub const BACKLOG: i32 = 1024;
/// Connections on their way to one worker.
pub const HAND_OVER: usize = 1024;
/// Connections accepted before anything else is looked at.
const MOST_ACCEPTS: usize = 256;
const ACCEPT: Token = Token(0);
/// The longest sleep, so that the heart beats.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// How long accepting pauses where the system has no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener's error, which ends the node.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The kernel does not report events any more.
    #[error("waiting for connections failed: {0}")]
    Poll(io::Error),
    /// The socket cannot be watched.
    #[error("watching the listening socket failed: {0}")]
    Register(io::Error),
}

/// A worker as the listener sees it.
pub struct Seat {
    /// Its queue of connections.
    pub queue: rtrb::Producer<TcpStream>,
    /// Wakes it.
    pub waker: Arc<Waker>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Connections handed over so far.
    pub handed_over: u64,
}

impl Seat {
    /// Connections that the worker has or is about to get.
    fn load(&self) -> u64 {
        let Counters { moved_in, moved_out, closed, .. } = &*self.counters;
        (self.handed_over + moved_in.get()).saturating_sub(moved_out.get() + closed.get())
    }
}

/// The listener thread's state.
pub struct Listener {
    poll: Poll,
    socket: TcpListener,
    seats: Vec<Seat>,
    metrics: Arc<Metrics>,
}

impl Listener {
    /// A listener that hands over to these workers.
    #[must_use]
    pub fn new(poll: Poll, socket: TcpListener, seats: Vec<Seat>, metrics: Arc<Metrics>) -> Listener {
        Listener { poll, socket, seats, metrics }
    }

    /// Accepts until the node closes.
    ///
    /// # Errors
    /// [`ListenerError`]
    pub fn run(mut self) -> Result<(), ListenerError> {
        let mut events = Events::with_capacity(8);
        let registered = self.poll.registry().register(&mut self.socket, ACCEPT, Interest::READABLE);
        registered.map_err(ListenerError::Register)?;
        let mut sleep = LONGEST_SLEEP;
        while self.metrics.phase() < Phase::Closing {
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(ListenerError::Poll(error)),
                _ => {}
            }
            sleep = self.accept();
            self.metrics.listener_heartbeat.set(self.metrics.clock.now().micros());
        }
        Ok(())
    }

    /// Accepts what there is, wakes the workers that got something, and says how long there is nothing to do.
    fn accept(&mut self) -> Duration {
        let mut sleep = Duration::ZERO;
        let mut woken = vec![false; self.seats.len()];
        for _ in 0..MOST_ACCEPTS {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    if let Some(index) = self.hand_over(stream) {
                        woken[index] = true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sleep = LONGEST_SLEEP;
                    break;
                }
                // The client was gone before it was its turn.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    warn!(%error, "a connection cannot be accepted; raise the limit of open files if it is used up");
                    sleep = PAUSE;
                    break;
                }
            }
        }
        for (seat, _) in self.seats.iter().zip(woken).filter(|(_, woken)| *woken) {
            if let Err(error) = seat.waker.wake() {
                warn!(%error, "a worker could not be woken; it will find its connections within half a second");
            }
        }
        sleep
    }

    /// Gives a connection to the worker with the fewest; says which.
    fn hand_over(&mut self, stream: TcpStream) -> Option<usize> {
        let watchers = self.metrics.watch.figures().watchers as u64;
        let open: u64 = self.seats.iter().map(Seat::load).sum::<u64>() + watchers;
        let seats = self.seats.iter_mut().enumerate().filter(|(_, seat)| !seat.queue.is_full());
        let least = seats.min_by_key(|(_, seat)| seat.load());
        let Some((index, seat)) = least.filter(|_| open < u64::from(self.metrics.config.max_connections)) else {
            self.refuse(stream);
            return None;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection was gone before it was handed over");
            return None;
        }
        if seat.queue.push(stream).is_err() {
            return None;
        }
        seat.handed_over += 1;
        self.metrics.accepted.add(1);
        Some(index)
    }

    fn refuse(&self, mut stream: TcpStream) {
        self.metrics.refused.add(1);
        if let Err(error) = stream.write(Reply::TooManyConnections.text()) {
            debug!(%error, "a refused connection could not be told why");
        }
    }
}

/// Listens at `address`.
///
/// # Errors
/// What the system says, such as that the address is in use.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted node must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
