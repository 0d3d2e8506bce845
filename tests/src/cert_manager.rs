//! cert-manager's own controllers, for the namespace of a scenario.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::bed::{Tool, run};
use crate::failure::{Failure, Outcome};
use crate::scenario::Scenario;

/// The controllers at work. They end with the test, whatever happens: their input then ends.
pub struct CertManager {
    _child: Child,
}

/// The folder with the program and cert-manager's CRDs, which `tests/run` makes.
fn folder() -> Outcome<PathBuf> {
    let folder = env::var_os("GANNET_CERT_MANAGER").map(PathBuf::from);
    folder.ok_or_else(|| Failure::new("GANNET_CERT_MANAGER names no folder: `tests/run cluster` makes one"))
}

impl CertManager {
    /// Installs the CRDs, and starts the controllers.
    ///
    /// # Errors
    /// Where they were not built or do not start: with what they said.
    pub async fn start(s: &Scenario) -> Outcome<CertManager> {
        let crds = folder()?.join("crds").display().to_string();
        run(Tool::Kubectl, &["apply", "--server-side", "--filename", &crds]).await?;
        run(Tool::Kubectl, &["wait", "--for=condition=Established", "--timeout=60s", "--filename", &crds]).await?;
        let mut child = Command::new(folder()?.join("cert-manager"))
            .arg(&s.namespace)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let mut first = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut first).await?;
        }
        crate::ensure!(first.starts_with("started"), "cert-manager's controllers do not start: {first}");
        Ok(CertManager { _child: child })
    }
}
