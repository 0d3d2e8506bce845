//! The README says what is so: every field with its default, resources that the types know, files that exist.

use std::fs;
use std::process::Command;

use gannet_crds::CacheCluster;
use kube::CustomResourceExt;
use serde_json::Value;
use tests::bed::repository;
use tests::failure::{Failure, Outcome};
use tests::yaml::{documents, missing_in};

fn readme() -> Outcome<String> {
    Ok(fs::read_to_string(repository().join("README.md"))?)
}

/// The texts of all fenced blocks in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split("```").collect();
    let fenced = parts.iter().skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).map(str::to_owned).collect()
}

/// What stands between single backticks, outside fenced blocks.
fn inline_code(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    prose.iter().flat_map(|part| part.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// A declared field: its path below `spec`, and its default.
struct Field {
    path: String,
    default: Option<Value>,
}

/// The fields of the schema, down to those that are Kubernetes' own.
fn fields() -> Outcome<Vec<Field>> {
    let crd = serde_json::to_value(CacheCluster::crd())?;
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties");
    let mut fields = Vec::new();
    for (name, schema) in spec.and_then(Value::as_object).into_iter().flatten() {
        match schema["properties"].as_object() {
            Some(inner) => fields.extend(inner.iter().map(|(field, schema)| Field {
                path: format!("{name}.{field}"),
                default: schema.get("default").cloned(),
            })),
            None => fields.push(Field { path: name.clone(), default: schema.get("default").cloned() }),
        }
    }
    assert!(fields.len() > 20, "the schema has {} fields", fields.len());
    Ok(fields)
}

/// Whether a node's configuration file has this field: it says so where it does not know one.
fn is_of_a_node(path: &str) -> bool {
    let nested = path.rsplit('.').fold("~".to_owned(), |inner, name| format!("{{{name}: {inner}}}"));
    !config::Config::parse(&nested).is_err_and(|error| error.to_string().contains("unknown field"))
}

#[test]
fn fields_of_a_node_are_told_from_others() {
    for (path, is_field) in [("workers", true), ("tls.directory", true), ("tls.folder", false), ("node.cpu", false)] {
        assert_eq!(is_of_a_node(path), is_field, "{path}");
    }
}

#[test]
fn it_has_every_field_with_its_default() -> Outcome {
    let text = readme()?;
    // Other tables are of a node's configuration file.
    let section = text.split("\n## ").find(|section| section.starts_with("A CacheCluster\n")).unwrap_or_default();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let names = |row: &[&str]| -> Vec<String> { row.first().map(|cell| inline_code(cell)).unwrap_or_default() };
    let fields = fields()?;
    for Field { path, default } in &fields {
        let row = rows.iter().find(|row| names(row).contains(path));
        let row = row.ok_or_else(|| Failure::new(format!("README.md does not explain spec.{path}")))?;
        let said = inline_code(row.get(1).copied().unwrap_or_default());
        let Some(default) = default.as_ref().filter(|default| !default.is_object()) else { continue };
        // A text may be given with or without its quotes.
        let (quoted, plain) = (default.to_string(), default.as_str().unwrap_or_default());
        let is_said = said.iter().any(|said| *said == quoted || said == plain);
        assert!(is_said, "README.md says {said:?} for spec.{path}, whose default is {default}");
    }
    for name in rows.iter().flat_map(|row| names(row)) {
        let is_declared = fields.iter().any(|field| field.path == name) || is_of_a_node(&name);
        assert!(
            is_declared,
            "README.md explains {name}, which is declared neither in spec nor in a node's configuration"
        );
    }
    Ok(())
}

#[test]
fn its_resources_are_ones_that_the_types_know() -> Outcome {
    let blocks = blocks(&readme()?, "yaml");
    assert!(!blocks.is_empty());
    for block in blocks {
        for object in documents(&block)? {
            let cluster: CacheCluster = serde_json::from_value(object.clone())?;
            let unknown = missing_in(&serde_json::to_value(&cluster)?, &object, "");
            assert!(unknown.is_empty(), "{unknown:?} in\n{block}");
            assert!(cluster.validate_cel().is_ok(), "{:?} in\n{block}", cluster.validate_cel());
        }
    }
    Ok(())
}

#[test]
fn the_files_that_it_names_exist() -> Outcome {
    let output = Command::new("git").arg("-C").arg(repository()).arg("ls-files").output()?;
    let tracked = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = readme()?;
    let commands = blocks(&text, "sh").join("\n");
    let words = commands.split_whitespace().filter(|word| word.starts_with("deploy/") || word.starts_with("tests/"));
    let named = inline_code(&text).into_iter().chain(words.map(str::to_owned));
    let is_path = |name: &str| {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        plain && !name.starts_with('/') && (name.contains('/') || name.ends_with(".rs"))
    };
    let mut checked = 0;
    for name in named.filter(|name| is_path(name)) {
        // Files of one part are named without its folder.
        let ends = |path: &str| path == name || path.ends_with(&format!("/{name}"));
        let begins = |path: &str| path.starts_with(&name) || path.contains(&format!("/{name}"));
        let exists = tracked.lines().any(|path| ends(path) || (name.contains('/') && begins(path)));
        assert!(exists, "README.md names {name}, which is not in the tree");
        checked += 1;
    }
    assert!(checked > 15, "only {checked} names were found");
    Ok(())
}
