//! The snapshot of the index that a clean end leaves, so that the next start need not read the segments.
//!
//! ```text
//! snapshot := frame*
//! frame    := length (4 bytes) checksum (4) content
//! contents := identity segments items item_bytes shape used entries place{used} entry{entries} index
//! shape    := level group_size grown items
//! place    := segment written live_items live_bytes (4 each) last_deadline last_sequence swept
//! entry    := sequence time
//! ```
//! Numbers have 8 bytes if nothing else is said, all are little-endian. The contents run through all frames; a frame has at
//! most [`FRAME`] bytes of them, and its checksum is a CRC-32C, seeded with the identity and the frame's number. Places are
//! in the order of their chains; the index is its buckets as they are.
//!
//! It is written frame by frame, and each frame's part of the index is given back to the system at once; it is read in the
//! same way. So neither takes memory beside the index. It is of one state of the volume alone, whose superblock names it:
//! with anything else, or where a frame is damaged, the segments are read instead.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use rustix::fs::{FallocateFlags, fallocate};

use crate::cache::Cache;
use crate::chronicle::Chronicle;
use crate::files::options;
use crate::opening::Volume;
use crate::segment::SEGMENT_HEADER;
use crate::superblock::Superblock;
use crate::volume::HUGE_PAGE;

/// The most contents of a frame.
const FRAME: usize = HUGE_PAGE;
/// Length and checksum.
const FRAME_HEAD: usize = 8;

/// What memory alone knows of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) written: u32,
    pub(crate) live_items: u32,
    pub(crate) live_bytes: u32,
    pub(crate) last_deadline: u64,
    pub(crate) last_sequence: u64,
    pub(crate) swept: u64,
}

impl Cache {
    /// Ends the use of the volume, if there is one: what memory alone knows goes into it, so that the next start is quick.
    /// Items are safe without it; it is to be called when no reservation is open.
    ///
    /// # Errors
    /// The system's. The next start then reads all segments.
    pub fn close(mut self) -> io::Result<()> {
        let Some(Volume { files, superblock, .. }) = &self.volume else { return Ok(()) };
        let (path, identity) = (files.snapshot(), superblock.epoch + 1);
        self.finish_job();
        let file = options().truncate(true).open(&path)?;
        self.persist()?;
        self.write_snapshot(&file, identity)?;
        if self.is_to_outlive_the_machine() {
            file.sync_all()?;
        }
        if let Some(volume) = &mut self.volume {
            volume.superblock.clean = identity;
        }
        self.write_superblock();
        self.persist()
    }

    fn write_snapshot(&mut self, file: &File, identity: u64) -> io::Result<()> {
        let mut frames = FrameWriter { file, identity, number: 0, content: Vec::with_capacity(FRAME) };
        let places = self.places();
        let entries = self.chronicle.entries();
        let [level, group_size, grown, items] = self.index.shape();
        let segments = u64::from(self.segments.count());
        for number in [identity, segments, self.totals.items, self.totals.item_bytes] {
            frames.write_all(&number.to_le_bytes())?;
        }
        for number in [level, group_size, grown, items, places.len() as u64, entries.len() as u64] {
            frames.write_all(&number.to_le_bytes())?;
        }
        for place in places {
            let Place { segment, written, live_items, live_bytes, last_deadline, last_sequence, swept } = place;
            for number in [segment, written, live_items, live_bytes] {
                frames.write_all(&number.to_le_bytes())?;
            }
            for number in [last_deadline, last_sequence, swept] {
                frames.write_all(&number.to_le_bytes())?;
            }
        }
        for (sequence, time) in entries {
            frames.write_all(&sequence.to_le_bytes())?;
            frames.write_all(&time.to_le_bytes())?;
        }
        let mut at = 0;
        while let Some(part) = self.index.part(at, FRAME) {
            let length = part.len();
            frames.write_all(part)?;
            self.index.release(at, length);
            at += length;
        }
        frames.end_frame()
    }

    /// All segments in use, in the order of their chains.
    fn places(&self) -> Vec<Place> {
        let chains = self.buckets.heads().flat_map(|head| self.buckets.chain(&self.segments, head));
        let place = |id| {
            let segment = self.segments.get(id);
            Place {
                segment: id,
                written: segment.written,
                live_items: segment.live_items,
                live_bytes: segment.live_bytes,
                last_deadline: segment.last_deadline,
                last_sequence: segment.last_sequence,
                swept: segment.swept,
            }
        };
        chains.map(place).collect()
    }

    /// Takes over the items of the volume from the snapshot of the state in which the epoch before has left it; says
    /// whether there was one.
    pub(crate) fn restore(&mut self, before: &Superblock) -> bool {
        let Some(Volume { files, .. }) = &self.volume else { return false };
        let path = files.snapshot();
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let restored = before.clean > 0 && opened.is_ok_and(|file| self.read_snapshot(file, before).is_ok());
        if !restored {
            self.index.clear();
        }
        // Where it stays it takes room, and is never read: no superblock names it any more.
        drop(std::fs::remove_file(path));
        restored
    }

    fn read_snapshot(&mut self, file: File, before: &Superblock) -> io::Result<()> {
        let mut frames = FrameReader { file, at: 0, identity: before.clean, number: 0, content: Vec::new(), read: 0 };
        let [identity, segments, live_items, live_bytes] = numbers(&mut frames)?;
        let [level, group_size, grown, items, used, entries] = numbers(&mut frames)?;
        let shape_fits = self.index.set_shape([level, group_size, grown, items]);
        let count = u64::from(self.segments.count());
        check(identity == before.clean && segments == count && used <= count && shape_fits)?;
        check(self.committed_with(used) + self.index.bytes() <= self.budget)?;
        let places = (0..used).map(|_| read_place(&mut frames)).collect::<io::Result<Vec<_>>>()?;
        let mut seen = HashSet::new();
        let is_place = |place: &Place| {
            let within = (SEGMENT_HEADER..=self.segments.size()).contains(&place.written);
            within && u64::from(place.segment) < count && self.segments.life(place.segment).is_some()
        };
        check(places.iter().all(|place| is_place(place) && seen.insert(place.segment)))?;
        let entries = (0..entries).map(|_| numbers(&mut frames).map(|[sequence, time]| (sequence, time)));
        let entries = entries.collect::<io::Result<Vec<_>>>()?;
        let mut at = 0;
        while let Some(part) = self.index.part_mut(at, FRAME) {
            frames.read_exact(part)?;
            at += part.len();
        }
        self.chronicle = Chronicle::recovered(entries, self.now, before.sequence);
        places.iter().for_each(|place| self.take_place(place));
        (self.totals.items, self.totals.item_bytes) = (live_items, live_bytes);
        self.maintenance.unverified = Some(0);
        self.segments.end_adoption();
        // What was open may have been empty.
        places.iter().for_each(|place| self.free_if_dead(place.segment));
        Ok(())
    }

    fn take_place(&mut self, place: &Place) {
        let id = place.segment;
        let Some(life) = self.segments.life(id) else { return };
        self.segments.adopt(id, &life);
        let Place { segment: _, written, live_items, live_bytes, last_deadline, last_sequence, swept } = *place;
        let segment = self.segments.get_mut(id);
        (segment.written, segment.live_items, segment.live_bytes) = (written, live_items, live_bytes);
        (segment.last_deadline, segment.swept) = (last_deadline, swept);
        segment.last_sequence = last_sequence.max(segment.base_sequence);
        segment.is_verified = false;
        let bucket = segment.bucket;
        let tail = self.buckets.get(bucket).tail;
        self.buckets.insert(&mut self.segments, bucket, tail, id);
    }
}

fn check(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn numbers<const N: usize>(source: &mut impl Read) -> io::Result<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        *number = u64::from_le_bytes(bytes);
    }
    Ok(numbers)
}

fn read_place(source: &mut impl Read) -> io::Result<Place> {
    let halves = |number: u64| (number as u32, (number >> u32::BITS) as u32);
    let [first, second, last_deadline, last_sequence, swept] = numbers(source)?;
    let ((segment, written), (live_items, live_bytes)) = (halves(first), halves(second));
    Ok(Place { segment, written, live_items, live_bytes, last_deadline, last_sequence, swept })
}

fn frame_checksum(identity: u64, number: u32, content: &[u8]) -> u32 {
    crc32c::crc32c_append(identity as u32 ^ number, content)
}

/// Divides contents into frames.
struct FrameWriter<'a> {
    file: &'a File,
    identity: u64,
    number: u32,
    content: Vec<u8>,
}

impl FrameWriter<'_> {
    fn end_frame(&mut self) -> io::Result<()> {
        let checksum = frame_checksum(self.identity, self.number, &self.content);
        self.file.write_all(&(self.content.len() as u32).to_le_bytes())?;
        self.file.write_all(&checksum.to_le_bytes())?;
        self.file.write_all(&self.content)?;
        self.number += 1;
        self.content.clear();
        Ok(())
    }
}

impl Write for FrameWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.content.len() == FRAME {
            self.end_frame()?;
        }
        let length = bytes.len().min(FRAME - self.content.len());
        self.content.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.end_frame()
    }
}

/// Joins the contents of frames, and gives back to the system what was read.
struct FrameReader {
    file: File,
    /// The bytes of the frames that were read.
    at: u64,
    identity: u64,
    number: u32,
    content: Vec<u8>,
    read: usize,
}

impl FrameReader {
    fn next_frame(&mut self) -> io::Result<()> {
        let mut head = [0; FRAME_HEAD];
        self.file.read_exact(&mut head)?;
        let [a, b, c, d, checksum @ ..] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        check((1..=FRAME).contains(&length))?;
        self.content.resize(length, 0);
        self.file.read_exact(&mut self.content)?;
        check(frame_checksum(self.identity, self.number, &self.content) == u32::from_le_bytes(checksum))?;
        (self.number, self.read) = (self.number + 1, 0);
        self.at += (FRAME_HEAD + length) as u64;
        // A file system that cannot do this takes the memory, or the room, a little longer.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _: Option<()> = fallocate(&self.file, hole, 0, self.at).ok();
        Ok(())
    }
}

impl Read for FrameReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.read == self.content.len() {
            self.next_frame()?;
        }
        let length = bytes.len().min(self.content.len() - self.read);
        bytes[..length].copy_from_slice(&self.content[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}
