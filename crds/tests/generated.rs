//! The generated files are those that the types give now.

use std::fs;
use std::path::Path;

fn assert_current(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is stale: run `cargo run -p gannet-crds` and commit what it writes");
}

#[test]
fn the_crd_is_current() {
    assert_current("crds/cachecluster.yaml", &gannet_crds::crd_yaml().unwrap());
}

#[test]
fn the_chart_template_is_current() {
    assert_current("charts/gannet/templates/crd.yaml", &gannet_crds::chart_template().unwrap());
}
