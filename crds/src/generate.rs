//! The generated files.

use kube::CustomResourceExt;

use crate::CacheCluster;

const HEADER: &str = "# Generated from crds/src by `cargo run -p gannet-crds`: do not edit.\n";

/// The CustomResourceDefinition as YAML.
///
/// # Errors
/// Where the serializer fails, which no schema is known to cause.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    Ok(format!("{HEADER}{}", serde_yaml::to_string(&CacheCluster::crd())?))
}

/// The same as a template of the Helm chart. It is a template and not a file in the chart's `crds/` folder, which Helm
/// installs once and never upgrades; the keep policy saves every cache from `helm uninstall`.
///
/// # Errors
/// Where the serializer fails, which no schema is known to cause.
pub fn chart_template() -> Result<String, serde_yaml::Error> {
    let mut crd = CacheCluster::crd();
    crd.metadata.annotations.get_or_insert_default().insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    // Helm would take braces in a description for a template of its own.
    let body = serde_yaml::to_string(&crd)?.replace("{{", "{{ \"{{\" }}");
    Ok(format!("{HEADER}{{{{- if .Values.crd.install }}}}\n{body}{{{{- end }}}}\n"))
}
