//! A thousand kills of a node under load, half of them with its volume in memory and half with it in a file.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, process};

use tests::crash;
use tests::failure::Outcome;
use tests::node::folder;

const ROUNDS: u64 = 500;

#[test]
fn whenever_a_node_is_killed_it_has_what_it_acknowledged() -> Outcome {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let memory = Path::new("/dev/shm").join(format!("gannet-soak-crash-{}", process::id()));
    for directory in [memory, folder()?] {
        let result = crash::rounds(&directory, "", ROUNDS, seed);
        drop(fs::remove_dir_all(&directory));
        result.map_err(|failure| failure.while_doing(format!("seed {seed}")))?;
    }
    Ok(())
}
