//! Large values on their way in: they are received straight into their segment.

use std::io::{ErrorKind, IoSliceMut, Read};

use memcache::{Announced, Command, Protocol, Rejection};
use segcache::{Cache, Reservation};

use super::{Batch, Received};

/// Values above this are received straight into their segment, where the worker has the cache; smaller ones are copied,
/// which costs less than making room ahead.
const LARGE_VALUE: usize = 32 << 10;
const LINE_END: &[u8] = b"\r\n";

/// A store of which the line has come and the value is coming. The line stays in the input, at its start; what follows
/// the value is received behind it.
pub(super) struct Filling {
    announced: Announced,
    reservation: Reservation,
}

impl Batch {
    /// The store of a large value that the input begins with, if its line is whole and its value is not, with the bytes
    /// that its key is in.
    pub fn announced(&mut self, protocol: Protocol) -> Option<(Announced, &[u8])> {
        if self.input.needed <= LARGE_VALUE || self.filling.is_some() || self.has_commands() {
            return None;
        }
        self.input.make_contiguous();
        let received = &self.input.bytes[..self.input.filled];
        let announced = protocol.announced(received).filter(|announced| announced.length > LARGE_VALUE)?;
        Some((announced, received))
    }

    /// Has the announced value received into `reservation`, to which goes what is there of it.
    pub fn begin_filling(&mut self, announced: Announced, mut reservation: Reservation, cache: &mut Cache) {
        let input = &mut self.input;
        let received = announced.value..input.filled;
        let wanted = reservation.missing();
        let taken = wanted - cache.fill(&mut reservation, &input.bytes[received.clone()]);
        input.bytes.copy_within(received.start + taken..received.end, received.start);
        input.filled -= taken;
        input.needed = announced.value + LINE_END.len();
        self.filling = Some(Filling { announced, reservation });
    }

    /// As [`Batch::receive`], also into a reservation.
    pub fn receive_into(&mut self, stream: &mut impl Read, cache: &mut Cache) -> Received {
        let Some(filling) = self.filling.as_mut().filter(|filling| filling.reservation.missing() > 0) else {
            return self.receive(stream);
        };
        let value = cache.unfilled(&mut filling.reservation);
        let (missing, behind) = (value.len(), &mut self.input.bytes[self.input.filled..]);
        let room = missing + behind.len();
        match stream.read_vectored(&mut [IoSliceMut::new(value), IoSliceMut::new(behind)]) {
            Ok(0) => Received::End,
            Ok(count) => {
                cache.filled(&mut filling.reservation, count.min(missing));
                self.input.filled += count.saturating_sub(missing);
                Received::Bytes { count, drained: count < room }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Nothing,
            Err(error) if error.kind() == ErrorKind::OutOfMemory => Received::NoMemory,
            Err(error) if error.kind() == ErrorKind::Interrupted => Received::Bytes { count: 0, drained: false },
            Err(error) => Received::Broken(error),
        }
    }

    /// Makes a command of the store whose value has come; says no while it has not.
    pub(super) fn finish_filling(&mut self) -> bool {
        let Some(Filling { announced, reservation }) = self.filling.take() else { return true };
        let Announced { command, value, .. } = announced;
        let next = value + LINE_END.len();
        if reservation.missing() > 0 || self.input.filled < next {
            self.filling = Some(Filling { announced, reservation });
            return false;
        }
        let command = if &self.input.bytes[value..next] == LINE_END {
            command
        } else {
            let noreply = matches!(command, Command::Store { noreply: true, .. });
            Command::Reject { rejection: Rejection::BadChunk, noreply }
        };
        self.commands.push(command);
        self.starts.push(self.input.parsed as u32);
        (self.input.parsed, self.input.scanned, self.input.needed) = (next, 0, 1);
        self.reserved = Some(reservation);
        true
    }

    /// Gives back what the batch holds of the cache; to be called before it goes elsewhere than to its owner.
    pub fn abandon(&mut self, cache: &mut Cache) {
        let filling = self.filling.take().map(|filling| filling.reservation);
        filling.into_iter().chain(self.reserved.take()).for_each(|reservation| cache.abort(reservation));
    }

    /// Whether the batch holds a part of the cache.
    pub(super) fn holds_reservation(&self) -> bool {
        self.filling.is_some() || self.reserved.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind, Read, Write};

    use memcache::{Limits, Protocol};
    use segcache::{Cache, Deadline, Eviction, Settings};

    use crate::buffers::{Batch, Budget, Parsed, Pool, Received, Sent};
    use crate::control::Control;
    use crate::execute::{Context, execute_to};
    use crate::metrics::Metrics;
    use crate::storage::Owner;

    const PROTOCOL: Protocol = Protocol::Memcached(Limits { max_value: 1 << 20 });

    /// A socket that gives and takes so many bytes at once, and blocks after each time it has taken some.
    struct Wire<'a> {
        incoming: &'a [u8],
        piece: usize,
        outgoing: Vec<u8>,
        blocks: bool,
    }

    impl Read for Wire<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let piece = self.piece;
            (&mut self.incoming).take(piece as u64).read(bytes)
        }

        fn read_vectored(&mut self, slices: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
            let (before, mut left) = (self.incoming.len(), self.piece);
            for slice in slices {
                let room = slice.len().min(left);
                left -= self.incoming.read(&mut slice[..room])?;
            }
            Ok(before - self.incoming.len())
        }
    }

    impl Write for Wire<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[io::IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
            self.blocks = !self.blocks;
            if self.blocks {
                return Err(ErrorKind::WouldBlock.into());
            }
            let mut left = self.piece;
            for slice in slices {
                let taken = slice.len().min(left);
                self.outgoing.extend_from_slice(&slice[..taken]);
                left -= taken;
            }
            Ok(self.piece - left)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Server {
        owner: Owner,
        pool: Pool,
        metrics: std::sync::Arc<Metrics>,
    }

    impl Server {
        fn new() -> Server {
            let settings = Settings { budget: 16 << 20, max_item_size: 1 << 20, eviction: Eviction::Merge, seed: 1 };
            Server {
                owner: Owner::new(Cache::new(settings, 1_800_000_000).unwrap(), None),
                pool: Pool::new(Budget::new(64 << 20)),
                metrics: Metrics::new(config::Config::default(), String::new(), 1, Control::default()),
            }
        }

        /// Has `batch` receive, execute and answer until nothing more comes.
        fn serve(&mut self, batch: &mut Batch, wire: &mut Wire<'_>) {
            let context = Context { counters: &self.metrics.threads()[0], metrics: &self.metrics };
            loop {
                while batch.parse(PROTOCOL) == Parsed::Some {
                    execute_to(Some(wire), batch, self.owner.cache(), context);
                    batch.take_passed();
                    while !matches!(batch.send(wire), Sent::All) {}
                }
                match self.owner.receive(batch, PROTOCOL, wire) {
                    Received::End => return,
                    Received::Bytes { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }

        fn answer(&mut self, requests: &[u8], piece: usize) -> Vec<u8> {
            let mut batch = self.pool.take().unwrap();
            let mut wire = Wire { incoming: requests, piece, outgoing: Vec::new(), blocks: false };
            self.serve(&mut batch, &mut wire);
            batch.abandon(self.owner.cache());
            self.pool.give_back(batch);
            wire.outgoing
        }
    }

    fn value(length: usize, salt: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 / 7 + salt) as u8).collect()
    }

    #[test]
    fn large_values_come_back_whatever_the_pieces_are() {
        let (small, large) = (value(100, 1), value(100_000, 2));
        let store = |verb: &str, value: &[u8], end: &str| {
            [format!("{verb} 7 0 {}{end}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
        };
        let show = |key: &str, value: &[u8]| {
            [format!("VALUE {key} 7 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
        };
        let requests = [
            store("set a", &large, ""),
            store("set b", &small, ""),
            b"get a b a\r\n".to_vec(),
            store("add a", &large, ""),
            store("append b", &large, " noreply"),
            store("replace c", &large, ""),
            b"get b\r\nget a\r\n".to_vec(),
            store("cas a", &large, " 1"),
            store("cas a", &large, " 77 noreply"),
            [b"ms YmFzZQ== 100000 b T60 F7 k c\r\n", &large[..], b"\r\nms base 100000 ME\r\n", &large, b"\r\n"]
                .concat(),
            [b"ms base 100000 MA q C1\r\n", &large[..], b"\r\nmg base s f\r\nget base\r\n"].concat(),
        ]
        .concat();
        let both = [&small[..], &large].concat();
        let answers = [
            &b"STORED\r\nSTORED\r\n"[..],
            &[show("a", &large), show("b", &small), show("a", &large)].concat(),
            b"END\r\nNOT_STORED\r\nNOT_STORED\r\n",
            &show("b", &both),
            b"END\r\n",
            &show("a", &large),
            b"END\r\nSTORED\r\nHD kYmFzZQ== b c5\r\nNS\r\nEX\r\nHD s100000 f7\r\n",
            &show("base", &large),
            b"END\r\n",
        ]
        .concat();
        for piece in [1000, 4096, 16_384, 65_536, 99_990, 100_013, 1 << 20] {
            let mut server = Server::new();
            assert!(server.answer(&requests, piece) == answers, "pieces of {piece}");
            assert_eq!(server.owner.cache().counters().reservations, 0);
        }
    }

    #[test]
    fn a_large_value_allocates_nothing() {
        let large = value(100_000, 6);
        let requests: Vec<Vec<u8>> = ["set a 7 0 100000", "cas a 7 0 100000 1", "ms b 100000 c F1", "add a 7 0 100000"]
            .iter()
            .map(|line| [line.as_bytes(), b"\r\n", &large, b"\r\n"].concat())
            .chain([b"get a\r\nget a b\r\nmg b v\r\nmg b v f\r\n".to_vec()])
            .collect();
        let mut server = Server::new();
        let mut outgoing = Vec::with_capacity(1 << 20);
        let mut round = || {
            for request in &requests {
                let mut batch = server.pool.take().unwrap();
                outgoing.clear();
                let outgoing_of_wire = std::mem::take(&mut outgoing);
                let mut wire = Wire { incoming: request, piece: 16_384, outgoing: outgoing_of_wire, blocks: false };
                server.serve(&mut batch, &mut wire);
                server.pool.give_back(batch);
                outgoing = wire.outgoing;
            }
        };
        // The buffers grow, and the index and the segments have their first items.
        (0..2).for_each(|_| round());
        let used = allocation_counter::measure(|| (0..20).for_each(|_| round()));
        assert_eq!(used.count_total, 0, "{used:?}");
        assert!(outgoing.len() > 4 * large.len());
    }

    #[test]
    fn a_value_without_its_end_is_not_stored() {
        let mut server = Server::new();
        let requests = [b"set a 0 0 100000\r\n", &value(100_000, 3)[..], b"xyget a\r\nget b\r\n"].concat();
        assert_eq!(server.answer(&requests, 10_000), b"CLIENT_ERROR bad data chunk\r\nEND\r\nEND\r\n");
        assert_eq!(server.owner.cache().counters().reservations, 0);
    }

    #[test]
    fn what_is_not_received_to_the_end_is_given_back() {
        let mut server = Server::new();
        server.owner.cache().set(b"a", b"old", 0, Deadline::Never).unwrap();
        let requests = [b"set a 0 0 100000\r\n", &value(50_000, 4)[..]].concat();
        assert_eq!(server.answer(&requests, 1 << 20), b"");
        assert_eq!(server.owner.cache().counters().reservations, 0);
        assert_eq!(server.owner.cache().get(b"a").unwrap().value, b"old");
    }

    #[test]
    fn there_is_a_way_without_a_reservation() {
        let mut server = Server::new();
        let head = b"set a 0 0 100000\r\n";
        let mut held: Vec<Box<Batch>> = Vec::new();
        // As many at once as the cache does not make room for.
        for _ in 0..80 {
            let mut batch = server.pool.take().unwrap();
            let mut wire = Wire { incoming: head, piece: 1 << 20, outgoing: Vec::new(), blocks: false };
            server.serve(&mut batch, &mut wire);
            held.push(batch);
        }
        let reserved = server.owner.cache().counters().reservations;
        assert!((1..80).contains(&reserved), "{reserved}");
        let rest = [&value(100_000, 5)[..], b"\r\n"].concat();
        for mut batch in held {
            let mut wire = Wire { incoming: &rest, piece: 30_000, outgoing: Vec::new(), blocks: false };
            server.serve(&mut batch, &mut wire);
            assert_eq!(wire.outgoing, b"STORED\r\n");
            server.pool.give_back(batch);
        }
        assert_eq!(server.owner.cache().get(b"a").unwrap().value, value(100_000, 5));
        assert_eq!(server.owner.cache().counters().reservations, 0);
    }
}
