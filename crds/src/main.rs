//! Writes the generated files: `cargo run -p gannet-crds`.

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (path, text) in [
        ("crds/cachecluster.yaml", gannet_crds::crd_yaml()),
        ("charts/gannet/templates/crd.yaml", gannet_crds::chart_template()),
    ] {
        let text = text.map_err(io::Error::other)?;
        fs::create_dir_all(root.join(path).parent().unwrap_or(&root))?;
        fs::write(root.join(path), text)?;
        println!("{path}");
    }
    Ok(())
}
