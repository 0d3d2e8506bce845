//! Certificates for the rows within TLS: one CA, a pair of the server's and one of the client's.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use tests::failure::Failure;
use tests::secret::{Authority, Leaf, Pair};

/// The folder of the files, in which a cache-node finds its own by the name `node`.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// # Errors
    /// Where they cannot be made or written.
    pub fn write(folder: PathBuf) -> Result<Files, Box<dyn Error>> {
        let worded = |failure: Failure| failure.to_string();
        let authority = Authority::new("bench").map_err(worded)?;
        let node = authority.node().map_err(worded)?;
        let client = authority.issue(&Leaf::named(&["DNS:load"])).map_err(worded)?;
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("ca.crt"), &authority.pem)?;
        for (name, Pair { certificate, key, .. }) in [("node", node), ("client", client)] {
            fs::write(folder.join(format!("{name}.crt")), certificate)?;
            fs::write(folder.join(format!("{name}.key")), key)?;
        }
        // Debian's memcached gives up its rights, and reads the files after that.
        Ok(Files(fs::canonicalize(folder)?))
    }

    /// What tells the generator to use them.
    pub fn of_client(&self) -> [String; 6] {
        let file = |name| self.file(name);
        let (ca, certificate, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
        ["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key].map(str::to_owned)
    }

    /// What tells memcached to use them, and to ask for a client's certificate.
    pub fn of_memcached(&self) -> [String; 3] {
        let file = |name| self.file(name);
        let (chain, key, ca) = (file("node.crt"), file("node.key"), file("ca.crt"));
        let options = format!("ssl_chain_cert={chain},ssl_key={key},ssl_ca_cert={ca},ssl_verify_mode=2");
        ["-Z".to_owned(), "-o".to_owned(), options]
    }

    /// What tells a cache-node to use them.
    pub fn of_node(&self) -> String {
        format!("tls: {{directory: {}, name: node}}\n", self.0.display())
    }

    fn file(&self, name: &str) -> String {
        Path::join(&self.0, name).display().to_string()
    }
}
