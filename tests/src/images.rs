//! The images that the bed was given, under other names: what a new build is to the chart.

use std::process::Command;
use std::{env, fs, process};

use crate::bed::{self, VERSION};
use crate::failure::{Failure, Outcome};

/// Writes an archive of an image that the bed runs, with another tag.
///
/// # Returns
/// The archive's path, for `deploy/local/load-image`.
///
/// # Errors
/// Where the bed's own archive is not there, or is not an OCI archive.
pub fn retag(image: &str, tag: &str) -> Outcome<String> {
    let from = bed::cache_folder().join("images").join(format!("{image}-{VERSION}.tar"));
    let folder = env::temp_dir().join(format!("gannet-{image}-{tag}-{}", process::id()));
    let to = bed::cache_folder().join("images").join(format!("{image}-{tag}.tar"));
    fs::create_dir_all(&folder)?;
    tar(&["--extract", "--file", &from.display().to_string(), "--directory", &folder.display().to_string()])?;
    let index = fs::read_to_string(folder.join("index.json"))?;
    let renamed = index.replace(&format!("{image}:{VERSION}\""), &format!("{image}:{tag}\""));
    if renamed == index {
        return Err(Failure::new(format!("{} does not name {image}:{VERSION}: {index}", from.display())));
    }
    fs::write(folder.join("index.json"), renamed)?;
    tar(&["--create", "--file", &to.display().to_string(), "--directory", &folder.display().to_string(), "."])?;
    fs::remove_dir_all(&folder)?;
    Ok(to.display().to_string())
}

fn tar(arguments: &[&str]) -> Outcome {
    let output = Command::new("tar").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("tar {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr))))
}
