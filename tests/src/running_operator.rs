//! An operator that runs outside of any pod, beside the API server of the bed.

use std::env;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use crate::bed::repository;
use crate::failure::{Failure, Outcome};
use crate::process::{Process, tied};
use crate::scenario::{NOTICED, Scenario, until};
use crate::{ensure, http};

/// An operator for the scenario's namespace alone. It ends with the test.
pub struct Running {
    child: Child,
    port: u16,
}

/// The operator's program: `GANNET_CACHE_OPERATOR`, or the one of the repository.
#[must_use]
pub fn program() -> PathBuf {
    env::var_os("GANNET_CACHE_OPERATOR").map_or_else(|| repository().join("target/debug/cache-operator"), PathBuf::from)
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Running {
    /// Starts one, with more arguments.
    ///
    /// # Errors
    /// Where it was not built.
    pub fn start(s: &Scenario, lease: &str, identity: &str, arguments: &[&str]) -> Outcome<Running> {
        let port = free_port()?;
        let child = Command::from(tied(program())?)
            .args(["--namespaces", &s.namespace, "--lease-namespace", &s.namespace, "--lease-name", lease])
            .args(["--identity", identity, "--listen", &format!("127.0.0.1:{port}")])
            .args(arguments)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Running { child, port })
    }

    /// The port of its metrics.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of one of its metrics.
    ///
    /// # Errors
    /// Where it does not answer, or has no such metric.
    pub async fn metric(&self, name: &str) -> Outcome<f64> {
        http::metric(&http::get("127.0.0.1", self.port, "/metrics").await?, name)
    }

    /// Waits until it leads, or follows.
    ///
    /// # Errors
    /// Where that does not come about in time.
    pub async fn leads(&self, expected: bool) -> Outcome {
        let what = if expected { "it to lead" } else { "it to follow" };
        until(what, NOTICED, || async {
            http::get("127.0.0.1", self.port, "/readyz").await?;
            http::get("127.0.0.1", self.port, "/livez").await?;
            let leads = self.metric("gannet_operator_leader").await? > 0.5;
            ensure!(leads == expected, "leader: {leads}");
            Ok(())
        })
        .await
    }

    /// Sends it a signal, such as `TERM`.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: &str) -> Outcome {
        let id = self.child.id().ok_or_else(|| Failure::new("it has ended already"))?;
        Process::with_id(id).signal(signal)
    }

    /// Waits until it ends: how, and what it said.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub async fn ended(self) -> Outcome<(ExitStatus, String)> {
        let output = tokio::time::timeout(NOTICED, self.child.wait_with_output()).await;
        let output = output.map_err(|_| Failure::new("it does not end"))??;
        Ok((output.status, String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
