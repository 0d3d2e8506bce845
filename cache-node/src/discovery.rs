//! The list of the cluster's nodes that clients with auto discovery ask for (`config get cluster`, as ElastiCache has it).
//!
//! The list is a file that someone else writes, such as a mounted ConfigMap: a version in its first line, then the nodes as
//! `name|address|port` with white space between them; the address may be left out.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tracing::{info, warn};

use crate::clock::Instant;

/// How often the file is looked at, at most: a client that asks all the time must not make the node read all the time.
const LOOK_US: u64 = 1_000_000;
/// The longest file.
const LONGEST: u64 = 256 << 10;

/// What is wrong with a list.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is longer than {LONGEST} bytes; shorten it")]
    TooLong,
    #[error("its first line is {0:?}; it must be the list's version, a number")]
    NoVersion(String),
    #[error("{0:?} is not a node; write name|address|port")]
    NotANode(String),
}

/// A file with a list, and the list as it was last found.
#[derive(Debug)]
pub struct Discovery {
    file: PathBuf,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    looked: Option<Instant>,
    /// As it is sent; the last one that was good.
    list: Option<Vec<u8>>,
    /// What was last said to be wrong, so that it is said once.
    wrong: Option<String>,
}

impl Discovery {
    /// The list in this file, which need not be there yet.
    #[must_use]
    pub fn new(file: PathBuf) -> Discovery {
        Discovery { file, found: Mutex::default() }
    }

    /// The list at the time `now` as it is sent: the version's line and the nodes' line. None where there has never been a
    /// good one.
    #[must_use]
    pub fn list(&self, now: Instant) -> Option<Vec<u8>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.looked.is_none_or(|looked| now.since(looked) >= LOOK_US) {
            found.looked = Some(now);
            self.look(&mut found);
        }
        found.list.clone()
    }

    fn look(&self, found: &mut Found) {
        match self.read() {
            Ok(list) => {
                if found.list.as_ref() != Some(&list) {
                    info!(file = %self.file.display(), "the list of nodes is new");
                }
                (found.list, found.wrong) = (Some(list), None);
            }
            Err(error) => {
                let wrong = Some(error.to_string());
                if found.wrong != wrong {
                    warn!(file = %self.file.display(), %error, "the list of nodes is not taken; the last good one stays");
                }
                found.wrong = wrong;
            }
        }
    }

    fn read(&self) -> Result<Vec<u8>, ListError> {
        let mut text = String::new();
        let length = fs::File::open(&self.file)?.take(LONGEST + 1).read_to_string(&mut text)?;
        if length as u64 > LONGEST {
            return Err(ListError::TooLong);
        }
        parse(&text)
    }
}

/// The list as it is sent.
fn parse(text: &str) -> Result<Vec<u8>, ListError> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let version: u64 = first.trim().parse().map_err(|_| ListError::NoVersion(first.trim().to_owned()))?;
    let nodes: Vec<&str> = rest.split_whitespace().collect();
    match nodes.iter().find(|node| !is_node(node)) {
        Some(node) => Err(ListError::NotANode((*node).to_owned())),
        None => Ok(format!("{version}\n{}\n", nodes.join(" ")).into_bytes()),
    }
}

fn is_node(word: &str) -> bool {
    let parts: Vec<&str> = word.split('|').collect();
    matches!(parts[..], [name, _, port] if !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_list_is_sent_as_clients_read_it() {
        for (text, list) in [
            ("12\na|10.0.0.1|11211 b||11212\n", "12\na|10.0.0.1|11211 b||11212\n"),
            ("1\na|10.0.0.1|11211\nb||11212", "1\na|10.0.0.1|11211 b||11212\n"),
            ("7", "7\n\n"),
        ] {
            assert_eq!(parse(text).unwrap(), list.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [("", "\"\""), ("a||1", "a||1"), ("1\na:11211\n", "a:11211"), ("1\na||0", "a||0")] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text:?}: {message}");
        }
    }
}
