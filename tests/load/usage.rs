//! What a server's process uses.

use std::io;
use std::time::Instant;
use std::{fs, path::PathBuf};

/// Processor time and memory at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub at: Instant,
    /// User and system time of all threads, in nanoseconds.
    pub cpu: u64,
    /// Resident bytes.
    pub resident: u64,
}

impl Usage {
    /// Of a process, by its id.
    ///
    /// # Errors
    /// Where there is no such process, or its kernel keeps no such counts.
    pub fn of(process: u32) -> io::Result<Usage> {
        let folder = PathBuf::from(format!("/proc/{process}"));
        let named =
            |file: &str, error: io::Error| io::Error::new(error.kind(), format!("/proc/{process}/{file}: {error}"));
        // The scheduler's own count is in nanoseconds; the one in stat is rounded to hundredths of a second.
        let mut cpu = 0;
        for thread in fs::read_dir(folder.join("task")).map_err(|error| named("task", error))? {
            // A thread that ends in between is no longer counted: servers keep theirs.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            cpu += text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or_default();
        }
        let status = fs::read_to_string(folder.join("status")).map_err(|error| named("status", error))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let resident = kibibytes.ok_or_else(|| io::Error::other(format!("/proc/{process}/status has no VmRSS")))? << 10;
        Ok(Usage { at: Instant::now(), cpu, resident })
    }
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn this_process_uses_processor_time_and_memory() {
        let id = std::process::id();
        let before = Usage::of(id).unwrap();
        let mut sum = 0u64;
        while Usage::of(id).unwrap().cpu < before.cpu + 20_000_000 {
            sum = (0..100_000u64).fold(sum, u64::wrapping_add);
        }
        assert!(before.resident > 1 << 16 && std::hint::black_box(sum) > 0);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
