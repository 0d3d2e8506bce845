//! Writing to a TLS stream.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Write};

use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError};

use super::{BUFFER, TlsStream};

/// What is sealed at once.
const MOST_SEALED: usize = 64 << 10;
/// What is sealed whatever the budget says, so that a stream always gets on.
const LEAST_SEALED: usize = 1 << 10;
/// What sealing adds at most: to each of four full records and a last one.
const SEALING: usize = 5 * 64;

thread_local! {
    /// Short slices that are written together.
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl TlsStream {
    pub(super) fn flush_outgoing(&mut self) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.outgoing.capacity() > 0 {
            (self.outgoing, self.sent) = (Vec::new(), 0);
            self.count_held();
        }
        Ok(())
    }

    /// Seals and writes as many bytes as are sealed at once.
    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush_outgoing()?;
        if self.sealed > 0 {
            return Ok(std::mem::take(&mut self.sealed).min(bytes.len()));
        }
        let mut length = bytes.len().min(MOST_SEALED);
        // What the socket does not take must be kept, so there must be memory for all of it.
        while length > LEAST_SEALED && !self.budget.has_room(length + SEALING) {
            length = (length / 4).max(LEAST_SEALED);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let sealed = self.seal(&bytes[..length], buffer)?;
            // What the session itself had to say comes first.
            if !self.outgoing.is_empty() {
                self.outgoing.extend_from_slice(&buffer[..sealed]);
                self.sealed = length;
                self.count_held();
                self.flush_outgoing()?;
                return Ok(std::mem::take(&mut self.sealed));
            }
            let mut sent = 0;
            while sent < sealed {
                match self.stream.write(&buffer[sent..sealed]) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.outgoing = buffer[sent..sealed].to_vec();
                        self.sealed = length;
                        self.count_held();
                        return Err(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(length)
        })
    }

    /// Seals `bytes` into `buffer`; returns how long that is.
    fn seal(&mut self, bytes: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        let TlsStream { session, incoming, outgoing, .. } = self;
        if self.failed {
            return Err(ErrorKind::NotConnected.into());
        }
        loop {
            let status = session.process_tls_records(incoming);
            match status.state.map_err(io::Error::other)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return traffic.encrypt(bytes, buffer).map_err(|error| match error {
                        EncryptError::InsufficientSize(_) => io::Error::other("a record is longer than it may be"),
                        EncryptError::EncryptExhausted => io::Error::other("the keys are used up"),
                    });
                }
                ConnectionState::EncodeTlsData(data) => encode(data, outgoing),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => {}
                _ => return Err(ErrorKind::NotConnected.into()),
            }
        }
    }
}

impl Write for TlsStream {
    /// What is short is put together, so that it shares records.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        GATHERED.with_borrow_mut(|gathered| {
            let mut taken = 0;
            loop {
                let bytes = gather(slices, taken, gathered);
                if bytes.is_empty() {
                    return Ok(taken);
                }
                match self.write_once(bytes) {
                    Ok(count) => taken += count,
                    // An error is found again by the next write.
                    Err(_) if taken > 0 => return Ok(taken),
                    Err(error) => return Err(error),
                }
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.write_once(&bytes[taken..]) {
                Ok(count) => taken += count,
                // An error is found again by the next write.
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is sealed together of these slices, behind the first `skip` bytes: a part of one of them, or several in `gathered`.
fn gather<'a>(slices: &'a [IoSlice<'_>], mut skip: usize, gathered: &'a mut Vec<u8>) -> &'a [u8] {
    gathered.clear();
    for slice in slices {
        let part = slice.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(slice.len());
        if gathered.is_empty() && part.len() >= MOST_SEALED {
            return part;
        }
        gathered.extend_from_slice(&part[..part.len().min(MOST_SEALED - gathered.len())]);
    }
    gathered
}

pub(super) fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) {
    let start = outgoing.len();
    // Asked without room, it says how much it needs.
    if let Err(EncodeError::InsufficientSize(error)) = data.encode(&mut []) {
        outgoing.resize(start + error.required_size, 0);
        let encoded = data.encode(&mut outgoing[start..]);
        debug_assert!(encoded.is_ok(), "it was given what it asked for");
    }
}
