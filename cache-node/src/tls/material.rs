//! The files of a mounted secret: read as one, and checked before anything of them is used.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use config::TlsMode;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;

use crate::tls::certificate::Facts;
use crate::tls::trust::Trust;

/// The trust bundle.
const BUNDLE: &str = "ca.crt";
/// The list of those who are let in.
const IDENTITIES: &str = "identities";
/// What Kubernetes points to the folder that holds the files of one moment.
const MOMENT: &str = "..data";
/// The longest file. A bundle of a hundred CAs has a tenth of it.
const LONGEST_FILE: u64 = 1 << 20;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Source {
    /// The folder.
    pub directory: PathBuf,
    /// The stem of the node's own pair.
    pub name: String,
    /// Whether clients must show a certificate.
    pub mode: TlsMode,
}

/// What the files hold, checked.
#[derive(Debug)]
pub struct Material {
    /// The node's own chain and its key.
    pub pair: Arc<CertifiedKey>,
    /// What the node's certificate says.
    pub facts: Facts,
    /// The CA that vouches for the node's certificate, as [`Facts::key`].
    pub issuer: String,
    /// Whom the node lets in.
    pub trust: Arc<Trust>,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The node's own pair is not there (yet).
    #[error(
        "{} is not in {}: whoever issues the node's certificates is to write it; the name is tls.name, or else the host name",
        files.join(" and "), directory.display()
    )]
    NoPair {
        /// The files that are missing.
        files: Vec<String>,
        /// Where they are missing.
        directory: PathBuf,
    },
    /// There is no bundle.
    #[error(
        "{}: is not there: without a CA no client can be verified; put the bundle there, or set tls.mode to Disabled",
        file.display()
    )]
    NoBundle {
        /// The bundle's path.
        file: PathBuf,
    },
    /// The system does not give a file.
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}; write it anew", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is no certificate in a file.
    #[error("{}: there is no certificate in it; write PEM with at least one", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// Key and certificate belong to different pairs.
    #[error("{}: is not the key to {}; write both files of one pair", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate is of the past.
    #[error("{}: expired {seconds} s ago; renew it, or set the clock", file.display())]
    Expired {
        /// The certificate's file.
        file: PathBuf,
        /// For how long.
        seconds: u64,
    },
    /// The certificate is of the future.
    #[error("{}: is not valid before {seconds} s from now; wait, or set the clock", file.display())]
    NotYetValid {
        /// The certificate's file.
        file: PathBuf,
        /// For how long.
        seconds: u64,
    },
    /// No CA of the bundle vouches for the certificate.
    #[error(
        "{}: no CA in {} vouches for it ({reason}); issue it from one of them, or add its CA",
        file.display(), bundle.display()
    )]
    WrongChain {
        /// The certificate's file.
        file: PathBuf,
        /// The bundle.
        bundle: PathBuf,
        /// What the verification says.
        reason: rustls::Error,
    },
    /// The files were changed while they were read.
    #[error("{}: its files change while they are read; replace the folder at once, as a mounted secret does", directory.display())]
    Changing {
        /// The folder.
        directory: PathBuf,
    },
}

impl MaterialError {
    /// A word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            MaterialError::NoPair { .. } | MaterialError::NoBundle { .. } => "missing",
            MaterialError::Unreadable { .. } => "unreadable",
            MaterialError::Malformed { .. } => "malformed",
            MaterialError::Empty { .. } => "empty",
            MaterialError::KeyMismatch { .. } => "key_mismatch",
            MaterialError::Expired { .. } => "expired",
            MaterialError::NotYetValid { .. } => "not_yet_valid",
            MaterialError::WrongChain { .. } => "wrong_chain",
            MaterialError::Changing { .. } => "changing",
        }
    }
}

/// What tells one state of the files from another without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    folder: PathBuf,
    files: Vec<Option<(SystemTime, u64, u64)>>,
}

impl Source {
    /// The state of the files now. `..data` is resolved here, once: all files are of the same moment.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let folder = fs::canonicalize(self.directory.join(MOMENT)).unwrap_or_else(|_| self.directory.clone());
        let state = |name: &String| {
            let metadata = fs::metadata(folder.join(name)).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        let files = self.names().iter().map(state).collect();
        Fingerprint { folder, files }
    }

    /// Reads the files of this state and checks them for use at `now`.
    ///
    /// # Errors
    /// [`MaterialError`] for the first thing that is wrong.
    pub fn load(
        &self,
        state: &Fingerprint,
        now: UnixTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Material, MaterialError> {
        let [bundle_file, chain_file, key_file, list_file] = self.names().map(|name| state.folder.join(name));
        let bundle = read(&bundle_file)?.ok_or_else(|| MaterialError::NoBundle { file: self.shown(&bundle_file) })?;
        let (chain, key) = match (read(&chain_file)?, read(&key_file)?) {
            (Some(chain), Some(key)) => (chain, key),
            (chain, key) => return Err(self.no_pair(chain.is_none(), key.is_none())),
        };
        let allowed = read(&list_file)?.map(|text| parse_list(&text, &self.shown(&list_file))).transpose()?;
        if self.fingerprint() != *state {
            return Err(MaterialError::Changing { directory: self.directory.clone() });
        }
        let (bundle_file, chain_file, key_file) =
            (self.shown(&bundle_file), self.shown(&chain_file), self.shown(&key_file));
        let authorities = certificates(&bundle, &bundle_file)?;
        let trust = Trust::new(authorities, allowed, self.mode, provider)
            .map_err(|what| MaterialError::Malformed { file: bundle_file.clone(), what })?;
        let chain = certificates(&chain, &chain_file)?;
        let malformed = |what| MaterialError::Malformed { file: chain_file.clone(), what };
        let facts = chain.first().map_or(Err("it is empty".to_owned()), |leaf| Facts::of(leaf)).map_err(malformed)?;
        check_validity(&facts, now, &chain_file)?;
        let pair = pair(chain, &key, &key_file, &chain_file, provider)?;
        let issuer = trust.vouches_for_server(&pair.cert, now).map_err(|reason| MaterialError::WrongChain {
            file: chain_file,
            bundle: bundle_file,
            reason,
        })?;
        Ok(Material { pair: Arc::new(pair), facts, issuer, trust: Arc::new(trust) })
    }

    fn names(&self) -> [String; 4] {
        [BUNDLE.to_owned(), format!("{}.crt", self.name), format!("{}.key", self.name), IDENTITIES.to_owned()]
    }

    /// The path by which people know a file: not that of the moment's folder.
    fn shown(&self, file: &Path) -> PathBuf {
        file.file_name().map_or_else(|| self.directory.clone(), |name| self.directory.join(name))
    }

    fn no_pair(&self, chain: bool, key: bool) -> MaterialError {
        let [_, chain_name, key_name, _] = self.names();
        let missing = [(chain, chain_name), (key, key_name)];
        let files = missing.into_iter().filter(|(missing, _)| *missing).map(|(_, name)| name).collect();
        MaterialError::NoPair { files, directory: self.directory.clone() }
    }
}

/// A file's bytes; none where it is not there.
fn read(file: &Path) -> Result<Option<Vec<u8>>, MaterialError> {
    let unreadable = |reason| MaterialError::Unreadable { file: file.to_owned(), reason };
    let opened = match fs::File::open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    opened.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST_FILE {
        let what = format!("it is longer than {LONGEST_FILE} bytes");
        return Err(MaterialError::Malformed { file: file.to_owned(), what });
    }
    Ok(Some(bytes))
}

fn certificates(pem: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all
        .map_err(|error| MaterialError::Malformed { file: file.to_owned(), what: format!("it is no PEM: {error}") })?;
    if all.is_empty() { Err(MaterialError::Empty { file: file.to_owned() }) } else { Ok(all) }
}

fn check_validity(facts: &Facts, now: UnixTime, file: &Path) -> Result<(), MaterialError> {
    let now = now.as_secs();
    let file = || file.to_owned();
    if now > facts.not_after {
        Err(MaterialError::Expired { file: file(), seconds: now - facts.not_after })
    } else if now < facts.not_before {
        Err(MaterialError::NotYetValid { file: file(), seconds: facts.not_before - now })
    } else {
        Ok(())
    }
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    key_file: &Path,
    chain_file: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, MaterialError> {
    let malformed = |what: String| MaterialError::Malformed { file: key_file.to_owned(), what };
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| malformed(format!("it is no private key: {error}")))?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| malformed(error.to_string()))?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match()
        .map_err(|_| MaterialError::KeyMismatch { key: key_file.to_owned(), certificate: chain_file.to_owned() })?;
    Ok(pair)
}

fn parse_list(text: &[u8], file: &Path) -> Result<BTreeSet<String>, MaterialError> {
    let malformed = |what| MaterialError::Malformed { file: file.to_owned(), what };
    let text = str::from_utf8(text).map_err(|error| malformed(format!("it is no UTF-8: {error}")))?;
    let mut list = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let name = line.split(" #").next().unwrap_or_default().trim();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        list.insert(match (name.strip_prefix("DNS:"), name.strip_prefix("URI:")) {
            (Some(dns), _) if !dns.is_empty() => format!("DNS:{}", dns.to_ascii_lowercase()),
            (_, Some(uri)) if !uri.is_empty() => name.to_owned(),
            _ => return Err(malformed(format!("line {}: {name}: write DNS:name or URI:uri", index + 1))),
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use config::TlsMode;
    use rustls::pki_types::UnixTime;

    use super::{BUNDLE, MaterialError, Source, parse_list};

    #[test]
    fn files_that_change_while_they_are_read_are_of_no_use() {
        let directory = std::env::temp_dir().join(format!("gannet-material-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let source = Source { directory: directory.clone(), name: "node".to_owned(), mode: TlsMode::Strict };
        for file in [BUNDLE, "node.crt", "node.key"] {
            fs::write(directory.join(file), "before").unwrap();
        }
        let state = source.fingerprint();
        fs::write(directory.join("node.key"), "afterwards").unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let error = source.load(&state, UnixTime::now(), &provider).unwrap_err();
        fs::remove_dir_all(&directory).unwrap();
        assert!(matches!(error, MaterialError::Changing { .. }), "{error}");
    }

    #[test]
    fn a_list_has_a_name_a_line() {
        let text = b"# who may\nDNS:Web.Shop.svc\n\n  URI:spiffe://x/y#z # a comment\n";
        let list = parse_list(text, Path::new("identities")).unwrap();
        assert_eq!(list.into_iter().collect::<Vec<_>>(), ["DNS:web.shop.svc", "URI:spiffe://x/y#z"]);
        assert!(parse_list(b"", Path::new("identities")).unwrap().is_empty());
    }

    #[test]
    fn other_lines_are_refused_by_number() {
        for text in ["DNS:a\nweb", "DNS:a\nDNS:", "DNS:a\nIP:10.0.0.1"] {
            let message = parse_list(text.as_bytes(), Path::new("/tls/identities")).unwrap_err().to_string();
            assert!(message.contains("line 2") && message.contains("/tls/identities"), "{message}");
        }
    }
}
