//! Twenty power cuts for each durability.

use std::time::{SystemTime, UNIX_EPOCH};

use config::Durability;
use tests::failure::Outcome;
use tests::power;

const ROUNDS: u64 = 20;

#[test]
fn after_a_power_cut_a_node_has_what_its_durability_promises() -> Outcome {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    if power::can_be_cut() {
        for durability in [Durability::Always, Durability::Interval, Durability::None] {
            power::rounds(durability, ROUNDS, seed).map_err(|failure| failure.while_doing(format!("seed {seed}")))?;
        }
    }
    Ok(())
}
