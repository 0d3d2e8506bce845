//! The load generator, at work on a cluster for as long as a test wants it to.

use std::env;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use tokio::net::lookup_host;
use tokio::process::{Child, Command};

use crate::ensure;
use crate::failure::{Failure, Outcome};
use crate::process::Process;
use crate::scenario::{NOTICED, until};

/// A machine that tests share gives each a little: what is asked is how many fail, not how fast they are.
const RATE: &str = "120";
const CONNECTIONS: &str = "4";

/// A running load generator. It ends with the test.
pub struct Load(Child);

/// What it has counted.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Requests that were answered.
    pub requests: u64,
    /// Replies that say that a request failed.
    pub refused: u64,
    /// What went wrong.
    pub errors: Errors,
}

/// What went wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Errors {
    /// Requests that came to nothing.
    pub failed_requests: u64,
    /// Connections that could not be made, handshakes included.
    pub connects: u64,
    /// Connections that the node closed.
    pub disconnects: u64,
    /// Replies that were waited for in vain.
    pub timeouts: u64,
    /// Replies that were not what was stored.
    pub wrong_replies: u64,
    /// Connections that were made again.
    pub reconnects: u64,
    /// What was said.
    pub texts: serde_json::Value,
}

impl Load {
    /// Starts on these nodes, with the `ca.crt`, `tls.crt` and `tls.key` of a folder, which may change at any time.
    ///
    /// # Errors
    /// Where the load generator was not built, or a node's name stays unknown.
    pub async fn start(addresses: &[String], files: &Path) -> Outcome<Load> {
        known(addresses).await?;
        let mut command = command(addresses)?;
        command.args(["--rate", RATE, "--keys=500"]);
        for (option, file) in [("--tls-ca", "ca.crt"), ("--tls-cert", "tls.crt"), ("--tls-key", "tls.key")] {
            command.arg(option).arg(files.join(file));
        }
        Ok(Load(command.spawn()?))
    }

    /// Starts on these nodes, in the clear, with more options.
    ///
    /// # Errors
    /// Where the load generator was not built, or a node's name stays unknown.
    pub async fn plain(addresses: &[String], options: &[&str]) -> Outcome<Load> {
        known(addresses).await?;
        Ok(Load(command(addresses)?.args(options).spawn()?))
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where it failed by itself: with its outputs.
    pub async fn stop(self) -> Outcome<Counted> {
        let id = self.0.id().ok_or_else(|| Failure::new("the load generator has ended by itself"))?;
        Process::with_id(id).signal("INT")?;
        let output = self.0.wait_with_output().await?;
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).map_err(|_| Failure::new(format!("the load generator failed: {text}\n{error}")))
    }
}

/// Waits until the cluster's DNS knows all names: it learns of a pod a moment after that is ready.
async fn known(addresses: &[String]) -> Outcome {
    until("the nodes' names to be known", NOTICED, || async {
        for address in addresses {
            let found = lookup_host(address.as_str()).await.map(|mut addresses| addresses.next());
            let first = found.map_err(|error| Failure::new(format!("{address}: {error}")))?;
            ensure!(first.is_some(), "{address} has no address");
        }
        Ok(())
    })
    .await
}

fn command(addresses: &[String]) -> Outcome<Command> {
    let program = env::current_exe()?.ancestors().nth(2).map(|folder| folder.join("load"));
    let program = program.filter(|program| program.is_file());
    let program = program.ok_or_else(|| Failure::new("load was not built: run `cargo build -p tests`"))?;
    let mut command = Command::new(program);
    command.args(["run", "--duration=0", "--warmup=0s", "--quiet", "--json=-", "--reconnect=resend"]);
    command.args(["--connections", CONNECTIONS]);
    command.args(addresses.iter().flat_map(|address| ["--server", address]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

impl Counted {
    /// Panics where a reply said that a request failed or was not what was stored, or nothing was tried. Connections to pods that
    /// are replaced end, and so may what was on its way to them.
    pub fn assert_only_reconnected(&self) {
        assert!(self.requests > 0, "nothing was tried: {self:?}");
        assert_eq!(self.refused + self.errors.wrong_replies, 0, "requests failed: {self:?}");
    }

    /// As [`Counted::assert_only_reconnected`], and panics where anything went wrong with a pod that is none of these.
    pub fn assert_only_reconnected_to(&self, replaced: &[&str]) {
        self.assert_only_reconnected();
        // Each begins with the name of the server.
        let texts = self.errors.texts.as_object().into_iter().flatten();
        let of_others: Vec<_> =
            texts.filter(|(text, _)| !replaced.iter().any(|pod| text.starts_with(&format!("{pod}.")))).collect();
        assert!(of_others.is_empty(), "only {replaced:?} were replaced: {of_others:?}");
    }

    /// Panics where a handshake or a request failed, or nothing was tried.
    pub fn assert_unharmed(&self) {
        let Errors { failed_requests, connects, timeouts, wrong_replies, .. } = &self.errors;
        assert!(self.requests > 0, "nothing was tried: {self:?}");
        let failed = self.refused + failed_requests + connects + timeouts + wrong_replies;
        assert_eq!(failed, 0, "handshakes or requests of the load generator failed: {self:?}");
    }
}
