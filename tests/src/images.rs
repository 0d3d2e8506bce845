//! The images that the bed was given, under other names: what a new build is to the chart.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use crate::bed::{self, Tool, VERSION};
use crate::failure::{Failure, Outcome};

/// Gives the bed's nodes an image that they have once more, with another tag.
///
/// # Errors
/// Where the bed's own archive is not there, or is not an OCI archive.
pub async fn load_as(image: &str, tag: &str) -> Outcome {
    let folder = env::temp_dir().join(format!("gannet-{image}-{tag}-{}", process::id()));
    fs::create_dir_all(&folder)?;
    let loaded = async {
        let archive = retag(image, tag, &folder)?;
        bed::run(Tool::LoadImage, &[&archive.display().to_string()]).await
    }
    .await;
    fs::remove_dir_all(&folder)?;
    loaded.map(|_| ())
}

fn retag(image: &str, tag: &str, folder: &Path) -> Outcome<PathBuf> {
    let images = env::var_os("GANNET_IMAGES").map_or_else(|| bed::cache_folder().join("images"), PathBuf::from);
    let (from, to) = (images.join(format!("{image}-{VERSION}.tar")), folder.join(format!("{image}-{tag}.tar")));
    let content = folder.join("content");
    fs::create_dir(&content)?;
    let content_path = content.display().to_string();
    tar(&["--extract", "--file", &from.display().to_string(), "--directory", &content_path])?;
    let index = fs::read_to_string(content.join("index.json"))?;
    let renamed = index.replace(&format!("{image}:{VERSION}\""), &format!("{image}:{tag}\""));
    if renamed == index {
        return Err(Failure::new(format!("{} does not name {image}:{VERSION}: {index}", from.display())));
    }
    fs::write(content.join("index.json"), renamed)?;
    tar(&["--create", "--file", &to.display().to_string(), "--directory", &content_path, "."])?;
    Ok(to)
}

fn tar(arguments: &[&str]) -> Outcome {
    let output = Command::new("tar").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("tar {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr))))
}
