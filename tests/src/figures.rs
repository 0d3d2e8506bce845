//! Where benchmarks leave their figures: `target/bench/NAME.txt` for people, `NAME.json` for programs.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::{Value, json};

use crate::bed::repository;
use crate::failure::Outcome;

/// Prints the text, and writes it and the figures, with what machine they were taken on.
///
/// # Errors
/// Where the files cannot be written.
pub fn publish(name: &str, text: &str, figures: Value) -> Outcome {
    println!("\n{text}");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{name}.txt")), text)?;
    let cores = thread::available_parallelism()?.get();
    let report = json!({"figures": figures, "machine": {"cores": cores, "arch": env::consts::ARCH}});
    fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}

/// The middle one; of an even number, the upper of the two in the middle.
///
/// # Returns
/// Zero where there are none.
#[must_use]
pub fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::median;
    use std::time::Duration;

    #[test]
    fn the_median_is_the_middle_one() {
        let seconds = |values: &[u64]| values.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        assert_eq!(median(&seconds(&[9, 1, 5])), Duration::from_secs(5));
        assert_eq!(median(&[]), Duration::ZERO);
    }
}
