//! Reading from a TLS stream.

use std::io::{self, ErrorKind, IoSliceMut, Read};

use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use super::writing::encode;
use super::{BUFFER, LONGEST_RECORD, MOST_READ, Standing, TlsStream};

/// What a read takes beyond what was asked for, so that the overhead of records is no reason for another read.
const READ_AHEAD: usize = 1 << 10;
/// What a stream may hold after a read: what was read ahead, and the beginning of a record.
const MOST_HELD: usize = LONGEST_RECORD + READ_AHEAD;

impl TlsStream {
    /// Reads from the socket into `buffer`, behind the beginning of a record that was kept; returns the length of that
    /// and the number of bytes that came.
    pub(super) fn fill(&mut self, buffer: &mut [u8], most: usize) -> io::Result<(usize, usize)> {
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
    pub(super) fn work_off(
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
}

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
