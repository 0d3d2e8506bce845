//! The style of the tree, as a test: every finding names the file, the line and what to do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use tests::source::{Source, lines_with_word};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 80;
const UNSAFE_FILE: &str = "cache-node/segcache/src/volume.rs";
const ROOT: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "operator", "cache-node", "crds", "charts", "deploy"];
/// A shell script may say why it does without `set -euo pipefail`, within its first lines.
const SHELL_HEAD_LINES: usize = 30;

/// A text file that git tracks.
struct Text {
    path: String,
    content: String,
}

impl Text {
    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|e| e == extension)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tracked() -> io::Result<Vec<String>> {
    let output = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let paths: Vec<String> =
        String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(str::to_owned).collect();
    // A tree in which nothing is found to check would pass every test here.
    assert!(paths.iter().any(|path| path == "Cargo.toml"), "git lists no Cargo.toml: {paths:?}");
    Ok(paths)
}

/// The tracked files that are text; one that is deleted and not committed yet is no longer of interest.
fn texts() -> io::Result<Vec<Text>> {
    let read = |path: String| {
        let content = fs::read(root().join(&path)).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
        Some(Text { path, content })
    };
    // The inputs of fuzz targets are bytes, whatever they read like.
    Ok(tracked()?.into_iter().filter(|path| !path.contains("/fuzz/corpus/")).filter_map(read).collect())
}

fn rust() -> io::Result<Vec<(Text, Source)>> {
    let files = texts()?.into_iter().filter(|text| text.has_extension("rs"));
    Ok(files.map(|text| (Source::parse(&text.content), text)).map(|(source, text)| (text, source)).collect())
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

fn finding(path: &str, line: usize, text: &str) -> String {
    format!("{path}:{line}: {text}")
}

#[test]
fn files_have_one_subject() -> io::Result<()> {
    let mut findings = Vec::new();
    for (text, _) in rust()? {
        let lines = text.content.lines().count();
        if lines > FILE_LINES {
            findings.push(finding(&text.path, lines, &format!("more than {FILE_LINES} lines: split it by subject")));
        }
    }
    assert_none(&findings);
    Ok(())
}

#[test]
fn functions_fit_on_a_screen() -> io::Result<()> {
    let mut findings = Vec::new();
    for (text, source) in rust()? {
        for function in source.functions().iter().filter(|function| function.lines > FUNCTION_LINES) {
            let what = format!(
                "{} has {} lines: at most {FUNCTION_LINES}; give its parts names",
                function.name, function.lines
            );
            findings.push(finding(&text.path, function.line, &what));
        }
    }
    assert_none(&findings);
    Ok(())
}

#[test]
fn unsafe_code_lives_in_one_file() -> io::Result<()> {
    let mut findings = Vec::new();
    for (text, source) in rust()?.iter().filter(|(text, _)| text.path != UNSAFE_FILE) {
        let lines = lines_with_word(&source.code, "unsafe");
        findings.extend(lines.map(|line| finding(&text.path, line, &format!("unsafe code belongs in {UNSAFE_FILE}"))));
    }
    assert_none(&findings);
    Ok(())
}

#[test]
fn nothing_is_left_over() -> io::Result<()> {
    let mut findings = Vec::new();
    for (text, source) in rust()? {
        for (index, line) in source.code.lines().enumerate() {
            for leftover in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
                if line.contains(leftover) {
                    findings.push(finding(&text.path, index + 1, &format!("{leftover}: finish it or delete it")));
                }
            }
        }
        for (index, line) in source.comments.lines().enumerate() {
            if is_commented_code(line) {
                findings.push(finding(&text.path, index + 1, "commented-out code: delete it, git remembers it"));
            }
        }
    }
    for text in texts()? {
        let prose = if text.has_extension("rs") { Source::parse(&text.content).comments } else { text.content };
        for note in ["TODO", "FIXME", "XXX", "HACK"] {
            let what = format!("{note}: do it, or write it down where work is planned");
            findings.extend(lines_with_word(&prose, note).map(|line| finding(&text.path, line, &what)));
        }
    }
    assert_none(&findings);
    Ok(())
}

/// A plain comment that reads as a statement. Documentation may show code, and prose may end with a semicolon.
fn is_commented_code(line: &str) -> bool {
    let Some(comment) = line.trim().strip_prefix("//") else { return false };
    if comment.starts_with('/') || comment.starts_with('!') {
        return false;
    }
    let comment = comment.trim();
    let begins = ["let ", "use ", "pub ", "fn ", "impl ", "#[", "} else"].iter().any(|word| comment.starts_with(word));
    let ends = [";", "{", "}", ");"].iter().any(|end| comment.ends_with(end));
    let is_statement = comment.ends_with(';') && ["(", " = ", "::"].iter().any(|sign| comment.contains(sign));
    (begins && ends) || is_statement
}

#[test]
fn commented_code_is_told_from_prose() {
    for code in ["// let a = 1;", "    // self.close(token);", "// if x { y() } else { z() };", "// fn old() {"] {
        assert!(is_commented_code(code), "{code}");
    }
    for prose in
        ["// first this; then that;", "/// let a = 1;", "// use the other one", "//! fn main() {", "let a = 1;"]
    {
        assert!(!is_commented_code(prose), "{prose}");
    }
}

#[test]
fn imports_are_named_and_lints_are_expected() -> io::Result<()> {
    let mut findings = Vec::new();
    for (text, source) in rust()? {
        let mut in_use = false;
        for (index, line) in source.code.lines().enumerate() {
            let trimmed = line.trim_start();
            in_use |= trimmed.starts_with("use ") || (trimmed.starts_with("pub") && trimmed.contains(" use "));
            if in_use && trimmed.contains('*') {
                findings.push(finding(&text.path, index + 1, "glob import: name what is used"));
            }
            in_use &= !trimmed.contains(';');
            if line.contains("#[allow") || line.contains("#![allow") {
                let remedy = "allow: use #[expect(lint, reason = \"...\")], which says when it is no longer needed";
                findings.push(finding(&text.path, index + 1, remedy));
            }
        }
    }
    assert_none(&findings);
    Ok(())
}

#[test]
fn lines_end_where_their_text_ends() -> io::Result<()> {
    let mut findings = Vec::new();
    for text in texts()? {
        for (index, line) in text.content.lines().enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(finding(&text.path, index + 1, "white space at the end of the line: remove it"));
            }
        }
        if !text.content.is_empty() && !text.content.ends_with('\n') {
            let last = text.content.lines().count();
            findings.push(finding(&text.path, last, "no line end at the end of the file: add it"));
        }
    }
    assert_none(&findings);
    Ok(())
}

#[test]
fn the_root_shows_the_parts_and_nothing_else() -> io::Result<()> {
    let roots: BTreeSet<String> =
        tracked()?.iter().filter_map(|path| path.split('/').next()).map(str::to_owned).collect();
    let is_known = |name: &str| name.starts_with('.') || name == "tests" || ROOT.contains(&name);
    let findings: Vec<String> = roots
        .iter()
        .filter(|name| !is_known(name))
        .map(|name| finding(name, 1, "does not belong at the root: move it into a part"))
        .collect();
    assert_none(&findings);
    Ok(())
}

#[test]
fn every_crate_keeps_the_workspace_lints() -> io::Result<()> {
    let findings: Vec<String> = member_manifests()?
        .iter()
        .filter(|text| !text.content.contains("[lints]\nworkspace = true"))
        .map(|text| finding(&text.path, 1, "add [lints] with workspace = true"))
        .collect();
    assert_none(&findings);
    Ok(())
}

#[test]
fn every_shared_dependency_is_used() -> io::Result<()> {
    let members = member_manifests()?;
    let is_used = |name: &str| {
        let spellings = [format!("{name}.workspace = true"), format!("{name} = {{ workspace = true")];
        members.iter().flat_map(|text| text.content.lines()).any(|line| spellings.iter().any(|s| line.starts_with(s)))
    };
    let workspace = fs::read_to_string(root().join("Cargo.toml"))?;
    let mut findings = Vec::new();
    let mut inside = false;
    for (index, line) in workspace.lines().enumerate() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        }
        let Some((name, _)) = line.split_once(" = ").filter(|_| inside && !line.starts_with('#')) else { continue };
        if !is_used(name) {
            let what = format!("{name} is used by no member: delete the line");
            findings.push(finding("Cargo.toml", index + 1, &what));
        }
    }
    assert_none(&findings);
    Ok(())
}

/// The manifests of the workspace's members, as the `members` list names them.
fn member_manifests() -> io::Result<Vec<Text>> {
    let workspace = fs::read_to_string(root().join("Cargo.toml"))?;
    let list =
        workspace.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    let mut manifests = Vec::new();
    for member in list.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()) {
        let path = format!("{member}/Cargo.toml");
        let content = fs::read_to_string(root().join(&path))?;
        manifests.push(Text { path, content });
    }
    assert!(!manifests.is_empty(), "Cargo.toml names no members in a form that this test understands");
    Ok(manifests)
}

#[test]
fn shell_scripts_stop_at_the_first_error() -> io::Result<()> {
    let mut findings = Vec::new();
    for text in texts()? {
        let interpreter = text.content.lines().next().filter(|line| line.starts_with("#!")).unwrap_or_default();
        if !interpreter.ends_with("sh") {
            continue;
        }
        let head: Vec<&str> = text.content.lines().take(SHELL_HEAD_LINES).collect();
        let says_so = head.iter().any(|line| line.contains("set -euo pipefail"));
        if !says_so {
            let remedy = "begin with `set -euo pipefail`, or say in a comment why there is no `set -euo pipefail`";
            findings.push(finding(&text.path, 1, remedy));
        }
    }
    assert_none(&findings);
    Ok(())
}

#[test]
fn no_text_belongs_to_one_machine_or_one_registry() -> io::Result<()> {
    // Written in parts, or this file would name them.
    let registries = [
        concat!("crates", ".io"),
        concat!("proxy.golang", ".org"),
        concat!("sum.golang", ".org"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("registry.npmjs", ".org"),
        concat!("deb.debian", ".org"),
        concat!("repo1.maven", ".org"),
    ];
    let folders = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "home/")];
    let mut findings = Vec::new();
    // Cargo writes its registry into the lock file, whichever mirror it was fetched from.
    for text in texts()?.iter().filter(|text| !text.path.ends_with("Cargo.lock")) {
        for (index, line) in text.content.lines().enumerate() {
            if let Some(host) = registries.iter().find(|host| line.contains(*host)) {
                let what = format!("names the registry {host}: leave it to the user's own configuration");
                findings.push(finding(&text.path, index + 1, &what));
            }
            if let Some(folder) = folders.iter().find(|folder| names_folder(line, folder)) {
                let what =
                    format!("names {folder}, a folder of one machine: derive the path from the tree's own place");
                findings.push(finding(&text.path, index + 1, &what));
            }
        }
    }
    assert_none(&findings);
    Ok(())
}

/// Whether the line has an absolute path that begins with `folder`; `images/root/` is not one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_.-}$)*".contains(c))
    })
}
