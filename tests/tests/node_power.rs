//! The power of a node's machine is cut; the soak tests do it more often.

use config::Durability;
use tests::failure::Outcome;
use tests::power;

const ROUNDS: u64 = 2;

#[test]
fn after_a_power_cut_a_node_has_what_its_durability_promises() -> Outcome {
    if power::can_be_cut() {
        for durability in [Durability::Always, Durability::Interval, Durability::None] {
            power::rounds(durability, ROUNDS, 1)?;
        }
    }
    Ok(())
}
