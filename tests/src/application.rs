//! An application that uses a cache by TLS for as long as a test wants it to, with files that change as a kubelet changes them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Child;
use tokio::task::JoinHandle;

use crate::bed::{Tool, cache_folder, repository};
use crate::failure::{Failure, Outcome};
use crate::http::Credentials;
use crate::scenario::Scenario;

/// How often the Secret is looked at.
const REFRESH: Duration = Duration::from_millis(500);

/// What an application has seen.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Connections that were begun.
    pub handshakes: u64,
    /// Those of them on which no request was ever answered.
    pub failed_handshakes: u64,
    /// Requests on connections that stay.
    pub requests: u64,
    /// Those of them that failed on a new connection too.
    pub failed_requests: u64,
    /// Standing connections that the node had closed.
    pub closed: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
}

impl Seen {
    /// Panics where a handshake or a request failed, or nothing was tried.
    pub fn assert_unharmed(&self) {
        assert!(self.handshakes > 0 && self.requests > 0, "nothing was tried: {self:?}");
        assert_eq!((self.failed_handshakes, self.failed_requests), (0, 0), "{self:?}");
    }
}

/// An application at work. It ends with the test, whatever happens: its input then ends.
pub struct Application {
    child: Child,
    folder: PathBuf,
    refresh: Option<JoinHandle<()>>,
    scenario: (kube::Client, String),
    secret: String,
}

impl Application {
    /// Starts an application on these nodes, with the files of a Secret.
    ///
    /// # Errors
    /// Where there is no such Secret in time, or Python cannot be started.
    pub async fn start(s: &Scenario, secret: &str, addresses: &[String]) -> Outcome<Application> {
        let folder = cache_folder().join("tests").join(format!("{}-{secret}", s.namespace));
        fs::create_dir_all(&folder)?;
        write(&folder, &s.credentials(secret).await?)?;
        let child = tokio::process::Command::new(Tool::Python.program()?)
            .arg(repository().join("tests/client/tls_use.py"))
            .arg(&folder)
            .args(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let scenario = (s.client.clone(), s.namespace.clone());
        let mut application = Application { child, folder, refresh: None, scenario, secret: secret.to_owned() };
        application.reload(true);
        Ok(application)
    }

    /// Whether its files follow the Secret from now on.
    pub fn reload(&mut self, follows: bool) {
        if let Some(task) = self.refresh.take() {
            task.abort();
        }
        if follows {
            let (client, namespace) = self.scenario.clone();
            let (folder, secret) = (self.folder.clone(), self.secret.clone());
            self.refresh = Some(tokio::spawn(async move {
                // Without a Drop that would delete the namespace: this one is only looked at.
                let scenario = std::mem::ManuallyDrop::new(Scenario { namespace, client });
                let mut last = String::new();
                loop {
                    if let Ok(credentials) = scenario.credentials(&secret).await
                        && credentials.certificate != last
                        && write(&folder, &credentials).is_ok()
                    {
                        last = credentials.certificate;
                    }
                    tokio::time::sleep(REFRESH).await;
                }
            }));
        }
    }

    /// Where its files are, through a link that is swapped.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.folder.join("..data")
    }

    /// Ends it.
    ///
    /// # Returns
    /// What it has seen.
    ///
    /// # Errors
    /// Where it failed by itself: with its outputs.
    pub async fn stop(mut self) -> Outcome<Seen> {
        self.reload(false);
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().await?;
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).map_err(|_| Failure::new(format!("the application failed: {text}\n{error}")))
    }
}

/// As a kubelet does: a new folder, and then the link to it in one step.
fn write(folder: &Path, credentials: &Credentials) -> Outcome {
    let Credentials { authorities, certificate, key } = credentials;
    let number = fs::read_dir(folder)?.count();
    let next = folder.join(format!("..{number}"));
    fs::create_dir_all(&next)?;
    for (name, text) in [("ca.crt", authorities), ("tls.crt", certificate), ("tls.key", key)] {
        fs::write(next.join(name), text)?;
    }
    let link = folder.join("..data_tmp");
    symlink(&next, &link)?;
    Ok(fs::rename(link, folder.join("..data"))?)
}
