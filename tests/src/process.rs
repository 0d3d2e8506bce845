//! The processes of pods. The bed's nodes are namespaces of this machine, so a container's process is one of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, io};

use crate::failure::{Failure, Outcome};

/// A process on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory now, in bytes.
    pub resident: u64,
    /// The most that its resident memory ever was, in bytes.
    pub resident_peak: u64,
}

/// A command whose process is killed when the thread that starts it ends, however that comes: nothing stays of a test or a
/// benchmark that was killed itself. Arguments that are added go to `program`; the process's id is the program's.
///
/// # Errors
/// Where there is no such program.
pub fn tied(program: impl AsRef<OsStr>) -> io::Result<Command> {
    let program = find(program.as_ref())?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    Ok(command)
}

fn find(program: &OsStr) -> io::Result<PathBuf> {
    let path = Path::new(program);
    let is_name = path.components().count() == 1;
    let folders = env::var_os("PATH").filter(|_| is_name).unwrap_or_default();
    let named = env::split_paths(&folders).map(|folder| folder.join(path));
    let mut candidates = named.chain((!is_name).then(|| path.to_owned()));
    let found = candidates.find(|file| file.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such program"))
}

/// The kernel counts times for users in hundredths of a second, whatever its own clock is.
const TICKS_A_SECOND: u64 = 100;

impl Process {
    /// The process of this id.
    #[must_use]
    pub fn with_id(id: u32) -> Process {
        Process(id)
    }

    /// The process called `program` in the pod of this UID.
    ///
    /// # Errors
    /// Where there is none now.
    pub fn in_pod(pod_uid: &str, program: &str) -> Outcome<Process> {
        // The systemd driver writes a pod's UID with underscores.
        let spellings = [pod_uid.to_owned(), pod_uid.replace('-', "_")];
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            if read("comm").trim_end() == program && spellings.iter().any(|uid| read("cgroup").contains(uid)) {
                return Ok(Process(id));
            }
        }
        Err(Failure::new(format!("no process {program} runs in pod {pod_uid}")))
    }

    /// Sends a signal, such as `KILL`.
    ///
    /// # Errors
    /// Where the process is gone, or belongs to another user and there is no sudo.
    pub fn signal(self, signal: &str) -> Outcome {
        let arguments = [format!("-{signal}"), self.0.to_string()];
        let send = |program: &str, before: &[&str]| -> io::Result<bool> {
            Ok(Command::new(program).args(before).args(&arguments).output()?.status.success())
        };
        if send("kill", &[])? || send("sudo", &["--non-interactive", "kill"])? {
            return Ok(());
        }
        Err(Failure::new(format!("process {} cannot be sent SIG{signal}", self.0)))
    }

    /// What it has used until now.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn usage(self) -> Outcome<Usage> {
        let folder = Path::new("/proc").join(self.0.to_string());
        let stat = fs::read_to_string(folder.join("stat"))?;
        // The program's name is in parentheses and may hold spaces; the fields behind it are counted from the third.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| -> Outcome<u64> {
            let text = fields.get(number - 3).ok_or_else(|| Failure::new(format!("no field {number} in {stat}")))?;
            Ok(text.parse()?)
        };
        let ticks = field(14)? + field(15)?;
        let status = fs::read_to_string(folder.join("status"))?;
        Ok(Usage {
            cpu: Duration::from_millis(ticks * 1000 / TICKS_A_SECOND),
            resident: kibibytes(&status, "VmRSS:")?,
            resident_peak: kibibytes(&status, "VmHWM:")?,
        })
    }
}

fn kibibytes(status: &str, field: &str) -> Outcome<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number: u64 = number.ok_or_else(|| Failure::new(format!("no {field} in a process's status")))?.parse()?;
    Ok(number << 10)
}

#[cfg(test)]
mod tests {
    use super::{Process, tied};
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Stdio};
    use std::{io, process, thread};

    #[test]
    fn a_tied_process_ends_with_the_thread_that_started_it() {
        let start = || -> io::Result<Child> {
            let mut command = tied("sh")?;
            let mut child = command.args(["-c", "echo here; exec sleep 1000"]).stdout(Stdio::piped()).spawn()?;
            // From now on it is tied.
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new())?;
            Ok(child)
        };
        let mut child = thread::spawn(start).join().unwrap().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(tied("/no/such/program").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(tied("no-such-program").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_process_uses_memory() {
        let usage = Process(process::id()).usage().unwrap();
        assert!(usage.resident > 1 << 16 && usage.resident_peak >= usage.resident, "{usage:?}");
    }

    #[test]
    fn a_pod_that_is_not_there_has_no_process() {
        let failure = Process::in_pod("00000000-0000-0000-0000-000000000000", "cache-operator").unwrap_err();
        assert!(failure.to_string().contains("no process cache-operator"), "{failure}");
    }
}
