//! Clients that others have written, unchanged, against a node.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{MODES, Node};

/// The Python that Debian's own packages, pylibmc among them, are for.
const DEBIAN_PYTHON: &str = "/usr/bin/python3";

/// Runs a client, made for the node at this port, against a node in each mode. It ends with an error at the first answer
/// that is not what it should be.
fn succeeds(client: impl Fn(&str) -> Command) -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(mode)?;
        let mut command = client(&node.address.port().to_string());
        let output = command.output().map_err(|error| {
            Failure::new(format!("{command:?} cannot be run ({error}): tests/run node installs what it needs"))
        })?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&said));
    }
    Ok(())
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("client").join(name)
}

/// What tests/run has set up and names in the environment.
fn prepared(variable: &str, what: &str) -> Outcome<PathBuf> {
    let place = env::var_os(variable).map(PathBuf::from);
    place.ok_or_else(|| Failure::new(format!("{variable} does not name {what}; tests/run node sets it up")))
}

#[test]
fn pymemcache_finds_what_it_expects() -> Outcome {
    let python = prepared("GANNET_PYTHON", "a Python that has pymemcache")?;
    succeeds(|port| {
        let mut command = Command::new(&python);
        command.arg(source("with_pymemcache.py")).arg(port);
        command
    })
}

#[test]
fn pylibmc_finds_what_it_expects() -> Outcome {
    succeeds(|port| {
        let mut command = Command::new(DEBIAN_PYTHON);
        command.arg(source("with_pylibmc.py")).arg(port);
        command
    })
}

#[test]
fn gomemcache_finds_what_it_expects() -> Outcome {
    let program = prepared("GANNET_GOMEMCACHE", "the program of tests/client/gomemcache, built")?;
    succeeds(|port| {
        let mut command = Command::new(&program);
        command.arg(port);
        command
    })
}

#[test]
fn memcache_client_finds_what_it_expects() -> Outcome {
    let modules = prepared("GANNET_NODE_MODULES", "a folder of modules with memcache-client in it")?;
    succeeds(|port| {
        let mut command = Command::new("node");
        command.arg(source("memcache-client/main.js")).arg(port).env("NODE_PATH", &modules);
        command
    })
}

#[test]
fn memccapable_finds_a_server_that_it_knows() -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(mode)?;
        let port = node.address.port().to_string();
        let mut command = Command::new("memccapable");
        let output = command.args(["-a", "-h", "127.0.0.1", "-p", &port]).output().map_err(|error| {
            let remedy = "install it with `apt-get install libmemcached-tools`";
            Failure::new(format!("memccapable cannot be run ({error}): {remedy}"))
        })?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(output.status.success() && said.contains("All tests passed"), "{name}: {said}");
    }
    Ok(())
}
