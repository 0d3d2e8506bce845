//! The files of a volume: the segments, the snapshot of the index, and the lock that says whose they are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock, fstatfs};

use crate::opening::OpenError;
use crate::superblock::SUPERBLOCKS;
use crate::volume::{BusErrorGuard, HUGE_PAGE, Region, end_on_bus_error};

const VOLUME: &str = "gannet.volume";
const SNAPSHOT: &str = "gannet.index";
const LOCK: &str = "gannet.lock";
/// What the lock file holds once the volume has failed its owner.
const FAILED: &[u8] = b"failed\n";
/// What the system calls the file systems that a volume is told apart by (`statfs(2)`).
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;

/// What a volume turned out to lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Memory that outlives the process, but not the machine (tmpfs).
    Memory,
    /// The same in huge pages (hugetlbfs).
    Hugepages,
    /// Persistent memory, mapped so that a write is durable without a system call (`MAP_SYNC`).
    PersistentMemory,
    /// A file within the system's page cache.
    File,
}

/// The files of a volume, which are this process's as long as this lives.
pub(crate) struct Files {
    directory: PathBuf,
    lock: File,
    guard: Option<BusErrorGuard>,
}

/// What others may not read is made so that they cannot.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

impl Files {
    /// Takes possession of the volume in a directory, which is made if it is not there.
    pub(crate) fn lock(directory: &Path) -> Result<Files, OpenError> {
        let path = directory.join(LOCK);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |reason| OpenError::System { what, path, reason }
        };
        fs::create_dir_all(directory).map_err(failed("made", directory))?;
        let lock = options().truncate(false).open(&path).map_err(failed("opened", &path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(OpenError::Locked { path });
        }
        Ok(Files { directory: directory.to_owned(), lock, guard: None })
    }

    /// Whether the volume has failed an owner before.
    pub(crate) fn is_marked(&self) -> Result<bool, OpenError> {
        let mut text = Vec::new();
        let read = (&self.lock).take(FAILED.len() as u64).read_to_end(&mut text);
        read.map_err(|reason| OpenError::System { what: "read", path: self.directory.join(LOCK), reason })?;
        Ok(text == FAILED)
    }

    /// Notes that the volume has failed its owner, for the next one.
    pub(crate) fn mark(&self) {
        mark(&self.lock);
    }

    /// What the volume in a directory begins with, and its length; nothing, if there is none.
    pub(crate) fn superblocks_in(directory: &Path) -> Result<Option<(Vec<u8>, u64)>, OpenError> {
        let path = directory.join(VOLUME);
        let read = || -> io::Result<(Vec<u8>, u64)> {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            let mut bytes = Vec::with_capacity(SUPERBLOCKS);
            file.take(SUPERBLOCKS as u64).read_to_end(&mut bytes)?;
            Ok((bytes, length))
        };
        match read() {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(reason) => Err(OpenError::System { what: "read", path, reason }),
        }
    }

    /// Removes volume, snapshot and mark.
    pub(crate) fn discard(&self) -> Result<(), OpenError> {
        for name in [VOLUME, SNAPSHOT] {
            let path = self.directory.join(name);
            match fs::remove_file(&path) {
                Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::System { what: "removed", path, reason });
                }
                _ => {}
            }
        }
        let unmarked = self.lock.set_len(0);
        unmarked.map_err(|reason| OpenError::System { what: "written", path: self.directory.join(LOCK), reason })
    }

    /// Maps a volume of so many bytes; its file gets that length, and is made if it is not there.
    pub(crate) fn map(&self, bytes: usize) -> Result<(Region, Medium), OpenError> {
        let path = self.volume();
        let map = || -> io::Result<(Region, Medium)> {
            let file = options().truncate(false).open(&path)?;
            let medium = match fstatfs(&file)?.f_type as u64 {
                TMPFS => Medium::Memory,
                HUGETLBFS => Medium::Hugepages,
                _ => Medium::File,
            };
            let unit = if medium == Medium::Hugepages { HUGE_PAGE } else { 1 };
            file.set_len(bytes.next_multiple_of(unit) as u64)?;
            let mut region = Region::file(file, bytes.next_multiple_of(unit))?;
            let is_synchronous = medium == Medium::File && region.synchronize();
            Ok((region, if is_synchronous { Medium::PersistentMemory } else { medium }))
        };
        map().map_err(|reason| OpenError::System { what: "mapped", path: self.volume(), reason })
    }

    /// Lets a failure of the mapped volume end the process, and the next one know of it.
    pub(crate) fn guard(&mut self) -> Result<(), OpenError> {
        let path = self.volume();
        // Opened anew, or the lock would last as long as the guard.
        let marked = OpenOptions::new().write(true).open(self.directory.join(LOCK));
        let guarded = marked.and_then(|marked| end_on_bus_error(marked, FAILED, &path));
        self.guard = Some(guarded.map_err(|reason| OpenError::System { what: "guarded", path, reason })?);
        Ok(())
    }

    /// What makes the volume outlive the machine, for a thread of its own.
    pub(crate) fn flusher(&self, flushes: Arc<Flushes>) -> io::Result<Flusher> {
        let open = |name| File::options().read(true).write(true).open(self.directory.join(name));
        Ok(Flusher { volume: open(VOLUME)?, lock: open(LOCK)?, flushes })
    }

    /// Where the volume is.
    pub(crate) fn volume(&self) -> PathBuf {
        self.directory.join(VOLUME)
    }

    /// Where the snapshot of its index is.
    pub(crate) fn snapshot(&self) -> PathBuf {
        self.directory.join(SNAPSHOT)
    }
}

/// What makes a volume outlive the machine. It belongs to a thread of its own: the cache goes on meanwhile.
#[derive(Debug)]
pub struct Flusher {
    volume: File,
    lock: File,
    flushes: Arc<Flushes>,
}

/// How many flushes have begun, and how many have ended well.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
}

impl Flusher {
    /// Waits until what was in the cache when this was called would outlive the machine.
    ///
    /// # Errors
    /// The system's. The volume may then hold anything; it is marked, so that the next start is cold.
    pub fn flush(&self) -> io::Result<()> {
        self.flushes.begun.fetch_add(1, Ordering::SeqCst);
        self.volume.sync_data().inspect_err(|_| mark(&self.lock))?;
        self.flushes.ended.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn mark(lock: &File) {
    // What can be done about the failure is done: whoever marks hears of the error itself.
    let _: Option<usize> = rustix::io::pwrite(lock, FAILED, 0).ok();
}
