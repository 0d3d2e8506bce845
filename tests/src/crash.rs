//! A node that is killed at random moments under a random load, and journals of what it had acknowledged: what it has
//! afterwards is that, whatever the moment.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::failure::Outcome;
use crate::journal::{Expected, Journal, Random, check_all, while_working};
use crate::node::Node;

/// Clients at once, each with keys of its own.
const CLIENTS: u64 = 4;
/// A node lives for so many milliseconds of load.
const SHORTEST_LIFE: u64 = 5;
const LONGEST_LIFE: u64 = 60;
/// Small enough that the node compacts all the time, large enough that it never has to refuse a write.
const CONFIGURATION: &str = "memory: 32Mi\nmaxItemSize: 64Ki\neviction: None\n";

/// The seconds that items are given: most of them none.
const TTLS: &[u64] = &[0, 0, 0, 1, 2, 1000];

/// Kills a node with its volume in `directory`, and with these lines more under `storage`, so many times, and compares what it
/// then has with the journals.
///
/// # Errors
/// What is wrong: with the round, the key, what was acknowledged and what was found.
pub fn rounds(directory: &Path, storage: &str, count: u64, seed: u64) -> Outcome {
    let mut journals: Vec<_> = (0..CLIENTS).map(|client| Journal::new(client, seed, TTLS)).collect();
    let mut random = Random::new(seed);
    let start = || Node::start(&format!("{CONFIGURATION}storage:\n  directory: {}\n{storage}", directory.display()));
    for round in 0..count {
        let mut node = start()?;
        let items = check_all(&mut journals, node.address, Expected::Everything)
            .map_err(|failure| failure.while_doing(format!("round {round}")))?;
        crate::ensure!(round == 0 || items > 0, "round {round}: nothing came back:\n{}", node.log());
        let life = Duration::from_millis(SHORTEST_LIFE + random.below(LONGEST_LIFE - SHORTEST_LIFE));
        while_working(&mut journals, node.address, || {
            thread::sleep(life);
            node.signal("KILL")
        })?;
        node.wait()?;
    }
    let node = start()?;
    check_all(&mut journals, node.address, Expected::Everything).map(drop)
}
