//! The Kubernetes that `tests/run` has started, seen from inside its network, and the tools to work on it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs, process};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

use crate::failure::{Failure, Outcome};

/// The label of the tests' namespaces; its value is the process that made it, so that a later run finds what a killed
/// one has left.
pub const TEST_LABEL: &str = "gannet-test";

/// The folder of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// A client of the API server.
///
/// # Errors
/// Where this process is not inside a test bed, or its API server does not answer.
pub async fn connect() -> Outcome<Client> {
    if env::var_os("GANNET_BED").is_none() || env::var_os("KUBECONFIG").is_none() {
        return Err(Failure::new(
            "this test needs a Kubernetes cluster around it: `tests/run cluster` starts one and runs it there",
        ));
    }
    let client = Client::try_default().await?;
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    PREPARED.get_or_try_init(|| prepare(&client)).await?;
    Ok(client)
}

/// Once a process: removes what killed runs have left, and keeps the bed's own operator away from the tests' namespaces.
async fn prepare(client: &Client) -> Outcome {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for namespace in namespaces.list(&ListParams::default().labels(TEST_LABEL)).await? {
        let owner = namespace.labels().get(TEST_LABEL).cloned().unwrap_or_default();
        if owner != process::id().to_string() && !Path::new("/proc").join(&owner).exists() {
            namespaces.delete(&namespace.name_any(), &DeleteParams::background()).await?;
        }
    }
    restrict_shared_operator().await
}

/// Every scenario has an operator of its own. The one that `deploy/local/up` installs watches all namespaces: two would
/// then work on one CacheCluster.
async fn restrict_shared_operator() -> Outcome {
    let releases =
        run(Tool::Helm, &["list", "--namespace", "gannet-system", "--short", "--filter", "^gannet$"]).await?;
    if releases.trim().is_empty() {
        return Ok(());
    }
    let values =
        run(Tool::Helm, &["get", "values", "gannet", "--namespace", "gannet-system", "--output", "json"]).await?;
    let values: serde_json::Value = serde_json::from_str(&values)?;
    if values["watchNamespaces"].as_array().is_some_and(|watched| !watched.is_empty()) {
        return Ok(());
    }
    let chart = chart();
    let arguments =
        ["upgrade", "gannet", &chart, "--namespace", "gannet-system", "--reuse-values", "--wait", "--timeout=240s"];
    run(Tool::Helm, &[&arguments[..], &["--set-json", "watchNamespaces=[\"default\"]"]].concat()).await?;
    Ok(())
}

/// The folder of the chart.
#[must_use]
pub fn chart() -> String {
    repository().join("charts/gannet").display().to_string()
}

/// A program that the bed provides.
#[derive(Clone, Copy, Debug)]
pub enum Tool {
    /// kubectl, as users have it.
    Kubectl,
    /// helm.
    Helm,
    /// Loads an image archive into every node.
    LoadImage,
    /// Python with pymemcache.
    Python,
    /// What can happen to a host: it is stopped, started, frozen, thawed.
    Node,
}

/// Runs a tool to its end.
///
/// # Returns
/// What it wrote to its standard output.
///
/// # Errors
/// Where it cannot be started, or fails: with both of its outputs.
pub async fn run(tool: Tool, arguments: &[&str]) -> Outcome<String> {
    run_with_input(tool, arguments, "").await
}

/// The same, with text on its standard input.
///
/// # Errors
/// Where it cannot be started, or fails: with both of its outputs.
pub async fn run_with_input(tool: Tool, arguments: &[&str], input: &str) -> Outcome<String> {
    let program = tool.program()?;
    let mut child = tokio::process::Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start {}: {error}", program.display())))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    output_of(&format!("{} {}", program.display(), arguments.join(" ")), &child.wait_with_output().await?)
}

/// Runs a tool without a runtime, for what is to be done while a test unwinds.
///
/// # Errors
/// Where it cannot be started, or fails: with both of its outputs.
pub fn run_blocking(tool: Tool, arguments: &[&str]) -> Outcome<String> {
    let program = tool.program()?;
    let output = Command::new(&program).args(arguments).stdin(Stdio::null()).output()?;
    output_of(&format!("{} {}", program.display(), arguments.join(" ")), &output)
}

fn output_of(command: &str, output: &Output) -> Outcome<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let mut words = format!("`{command}` failed ({})", output.status);
    for part in [&text, &*String::from_utf8_lossy(&output.stderr)].map(str::trim_end).iter().filter(|p| !p.is_empty()) {
        write!(words, "\n{part}")?;
    }
    Err(Failure::new(words))
}

impl Tool {
    /// The program's path.
    ///
    /// # Errors
    /// Where it cannot be found.
    pub fn program(self) -> Outcome<PathBuf> {
        Ok(match self {
            Tool::Kubectl => PathBuf::from("kubectl"),
            Tool::Helm => PathBuf::from("helm"),
            Tool::LoadImage => repository().join("deploy/local/load-image"),
            Tool::Python => python()?,
            Tool::Node => repository().join("deploy/local/node"),
        })
    }
}

/// The Python that `deploy/local/up` keeps beside the built programs, unless GANNET_PYTHON names another.
fn python() -> Outcome<PathBuf> {
    if let Some(python) = env::var_os("GANNET_PYTHON") {
        return Ok(PathBuf::from(python));
    }
    let cache = cache_folder();
    let found = fs::read_dir(&cache)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("client-"))
        .map(|entry| entry.path().join("bin/python"))
        .find(|python| python.exists());
    found.ok_or_else(|| {
        Failure::new(format!(
            "there is no Python with pymemcache in {}: set GANNET_PYTHON to one, or run `deploy/local/up`",
            cache.display()
        ))
    })
}

/// Where `deploy/local` keeps what it has built.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let from = |name: &str| env::var_os(name).map(PathBuf::from);
    from("GANNET_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("gannet")))
        .unwrap_or_else(|| from("HOME").unwrap_or_default().join(".cache/gannet"))
}

/// The version of the workspace, which is the tag of the images that the bed runs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
