//! The listener thread: accepts connections, keeps to the limit, shakes hands where TLS is spoken, and hands over to the
//! least loaded worker.

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
use crate::tls::handshakes::{Handshakes, SWEEP};
use crate::transport::Transport;

/// Connections that the kernel keeps for the listener.
pub const BACKLOG: i32 = 1024;
/// Connections on their way to one worker.
pub const HAND_OVER: usize = 1024;
/// Connections accepted before anything else is looked at.
const MOST_ACCEPTS: usize = 256;
/// Events taken from the kernel in one round.
const EVENTS: usize = 256;
const ACCEPT: Token = Token(0);
/// How much the thread that shakes hands steps back where processors are short: a handshake takes as long as fifty requests, and
/// those who are in come before those who want in. They still get a tenth of a processor that is fully busy.
const HANDSHAKE_NICENESS: i32 = 10;
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
    pub queue: rtrb::Producer<Transport>,
    /// Wakes it.
    pub waker: Arc<Waker>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Connections handed over so far.
    pub handed_over: u64,
    /// It got something in this round.
    pub is_to_wake: bool,
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
    /// None where clients speak in the clear.
    handshakes: Option<Handshakes>,
    metrics: Arc<Metrics>,
}

impl Listener {
    /// A listener that hands over to these workers.
    #[must_use]
    pub fn new(poll: Poll, socket: TcpListener, seats: Vec<Seat>, metrics: Arc<Metrics>) -> Listener {
        let handshakes = metrics.tls.clone().map(Handshakes::new);
        Listener { poll, socket, seats, handshakes, metrics }
    }

    /// Accepts until the node closes.
    ///
    /// # Errors
    /// [`ListenerError`]
    pub fn run(mut self) -> Result<(), ListenerError> {
        let mut events = Events::with_capacity(EVENTS);
        let registered = self.poll.registry().register(&mut self.socket, ACCEPT, Interest::READABLE);
        registered.map_err(ListenerError::Register)?;
        let mut sleep = LONGEST_SLEEP;
        if self.handshakes.is_some()
            && let Err(error) = rustix::process::nice(HANDSHAKE_NICENESS)
        {
            warn!(%error, "the priority of handshakes could not be lowered; many of them at once may slow requests down");
        }
        while self.metrics.phase() < Phase::Closing {
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(ListenerError::Poll(error)),
                _ => {}
            }
            self.shake_hands(&events);
            sleep = self.accept();
            self.wake_workers();
            self.metrics.listener_heartbeat.set(self.metrics.clock.now().micros());
        }
        Ok(())
    }

    /// Accepts what there is, and says how long there is nothing to do.
    fn accept(&mut self) -> Duration {
        let under_way = self.handshakes.as_ref().is_some_and(|handshakes| !handshakes.is_empty());
        let idle = if under_way { SWEEP } else { LONGEST_SLEEP };
        let mut sleep = Duration::ZERO;
        for _ in 0..MOST_ACCEPTS {
            if self.handshakes.as_ref().is_some_and(Handshakes::is_full) {
                return idle;
            }
            match self.socket.accept() {
                Ok((stream, _)) => self.receive(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sleep = idle;
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
        sleep
    }

    /// Takes up a connection, unless there are too many.
    fn receive(&mut self, stream: TcpStream) {
        let under_way = self.handshakes.as_ref().map_or(0, |handshakes| handshakes.len() as u64);
        let watchers = self.metrics.watch.figures().watchers as u64;
        let open = self.seats.iter().map(Seat::load).sum::<u64>() + under_way + watchers;
        if open >= u64::from(self.metrics.config.max_connections) || self.seats.iter().all(|seat| seat.queue.is_full())
        {
            return self.refuse(stream);
        }
        if let Some(handshakes) = &mut self.handshakes {
            return handshakes.begin(stream, self.poll.registry(), &self.metrics);
        }
        match stream.set_nodelay(true) {
            Ok(()) => self.hand_over(Transport::Plain(stream)),
            Err(error) => debug!(%error, "a connection was gone before it was handed over"),
        }
    }

    /// Goes on with the handshakes that the kernel reports something of.
    fn shake_hands(&mut self, events: &Events) {
        let now = self.metrics.clock.now();
        for event in events.iter().filter(|event| event.token() != ACCEPT) {
            let Some(handshakes) = &mut self.handshakes else { return };
            if let Some(stream) = handshakes.advance(event.token(), self.poll.registry(), now) {
                self.hand_over(Transport::Tls(stream));
            }
        }
        if let Some(handshakes) = &mut self.handshakes {
            handshakes.sweep(now);
        }
    }

    /// Gives a connection to the worker with the fewest.
    fn hand_over(&mut self, transport: Transport) {
        let free = self.seats.iter_mut().filter(|seat| !seat.queue.is_full());
        let Some(seat) = free.min_by_key(|seat| seat.load()) else {
            self.metrics.refused.add(1);
            return;
        };
        if seat.queue.push(transport).is_ok() {
            seat.handed_over += 1;
            seat.is_to_wake = true;
            self.metrics.accepted.add(1);
        }
    }

    fn wake_workers(&mut self) {
        for seat in &mut self.seats {
            if std::mem::take(&mut seat.is_to_wake)
                && let Err(error) = seat.waker.wake()
            {
                warn!(%error, "a worker could not be woken; it will find its connections within half a second");
            }
        }
    }

    /// In the clear, the client is told why; within TLS it could not read it.
    fn refuse(&self, mut stream: TcpStream) {
        self.metrics.refused.add(1);
        if self.handshakes.is_none()
            && let Err(error) = stream.write(Reply::TooManyConnections.text())
        {
            debug!(%error, "a refused connection could not be told why");
        }
    }
}

/// Listens at `address`.
///
/// # Errors
/// As [`bind`].
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes `address`, without listening yet.
///
/// # Errors
/// What the system says, such as that the address is in use.
pub fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted node must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
