//! Certificates, and the folder that a mounted secret is: replaced at once, as the kubelet does it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, SerialNumber,
};

use crate::failure::Outcome;
use crate::node::folder;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
    /// Its serial in hexadecimal digits.
    pub serial: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
    /// The certificate's serial in hexadecimal digits.
    pub serial: String,
}

/// What a certificate is to be.
#[derive(Clone)]
pub struct Leaf<'a> {
    /// `DNS:name` or `URI:uri`; what else it is, is taken for a name or an address.
    pub names: &'a [&'a str],
    /// When its life begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

impl<'a> Leaf<'a> {
    /// For a year, from a while ago.
    #[must_use]
    pub fn named(names: &'a [&'a str]) -> Leaf<'a> {
        let now = SystemTime::now();
        Leaf { names, not_before: now - Duration::from_secs(300), not_after: now + YEAR }
    }

    /// Of the past.
    #[must_use]
    pub fn expired(names: &'a [&'a str]) -> Leaf<'a> {
        let now = SystemTime::now();
        Leaf { names, not_before: now - YEAR, not_after: now - Duration::from_secs(60) }
    }

    /// Of the future.
    #[must_use]
    pub fn early(names: &'a [&'a str]) -> Leaf<'a> {
        let now = SystemTime::now();
        Leaf { names, not_before: now + Duration::from_secs(3600), not_after: now + YEAR }
    }
}

fn next_serial() -> (SerialNumber, String) {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    // With the highest bit set, so that DER puts a zero byte before it.
    let number = 0xab00_0000_0000_0000 | COUNT.fetch_add(1, Ordering::Relaxed);
    (SerialNumber::from(number), format!("{number:016x}"))
}

impl Authority {
    /// A CA of this name. Others may have it too: it is the key that counts.
    ///
    /// # Errors
    /// Where the library cannot make one.
    pub fn new(name: &str) -> Outcome<Authority> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let (number, serial) = next_serial();
        params.serial_number = Some(number);
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), pem, serial })
    }

    /// A pair from this CA, for servers and clients alike.
    ///
    /// # Errors
    /// Where the library cannot make one.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Outcome<Pair> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        for name in leaf.names {
            params.subject_alt_names.push(match (name.strip_prefix("URI:"), name.strip_prefix("DNS:")) {
                (Some(uri), _) => SanType::URI(Ia5String::try_from(uri)?),
                (None, Some(dns)) => SanType::DnsName(Ia5String::try_from(dns)?),
                (None, None) => SanType::IpAddress(name.parse()?),
            });
        }
        let (number, serial) = next_serial();
        params.serial_number = Some(number);
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem(), serial })
    }

    /// A pair of a node at the loopback address.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn node(&self) -> Outcome<Pair> {
        self.issue(&Leaf::named(&["127.0.0.1"]))
    }
}

/// A mounted secret; it goes when dropped.
pub struct Secret {
    folder: PathBuf,
    moments: AtomicU64,
}

impl Secret {
    /// A secret with these files.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn mount(files: &[(&str, &str)]) -> Outcome<Secret> {
        let secret = Secret { folder: folder()?, moments: AtomicU64::new(0) };
        secret.replace(files)?;
        Ok(secret)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Replaces all files at once: they are written to a folder of their own, to which `..data` then points.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn replace(&self, files: &[(&str, &str)]) -> Outcome {
        let number = self.moments.fetch_add(1, Ordering::Relaxed);
        let moment = format!("..moment_{number}");
        fs::create_dir(self.folder.join(&moment))?;
        for (name, content) in files {
            fs::write(self.folder.join(&moment).join(name), content)?;
        }
        let (next, data) = (self.folder.join("..data_tmp"), self.folder.join("..data"));
        let before = fs::read_link(&data).ok();
        symlink(&moment, &next)?;
        fs::rename(&next, &data)?;
        self.link(files.iter().map(|(name, _)| *name))?;
        if let Some(before) = before {
            fs::remove_dir_all(self.folder.join(before))?;
        }
        Ok(())
    }

    fn link<'a>(&self, names: impl Iterator<Item = &'a str>) -> io::Result<()> {
        for name in names {
            let link = self.folder.join(name);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(name), link)?;
            }
        }
        Ok(())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}
