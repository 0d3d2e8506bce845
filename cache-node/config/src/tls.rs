//! What a node is told about TLS.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ConfigError, Duration};

/// TLS on the data port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Whether clients must show a certificate. Default: `Strict`.
    #[serde(default, skip_serializing_if = "is_default::mode")]
    pub mode: TlsMode,
    /// The folder with `ca.crt`, `NAME.crt`, `NAME.key` and, where only some clients are let in, `identities`. It is looked
    /// at again every second.
    pub directory: PathBuf,
    /// NAME of the node's own pair. Default: the host name, which in a pod is the pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How old a connection may become before it is closed between two requests, a tenth more or less so that they do not
    /// all come back at once; `0s` is for ever. Default: `1h`.
    #[serde(default = "default::max_connection_age", skip_serializing_if = "is_default::max_connection_age")]
    pub max_connection_age: Duration,
    /// Handshakes at once, 1 to 65536; more wait in the kernel. Default: 256.
    #[serde(default = "default::max_handshakes", skip_serializing_if = "is_default::max_handshakes")]
    pub max_handshakes: u32,
    /// How long a handshake may take. Default: `10s`.
    #[serde(default = "default::handshake_timeout", skip_serializing_if = "is_default::handshake_timeout")]
    pub handshake_timeout: Duration,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// No TLS: clients speak in the clear.
    Disabled,
    /// They may; one that is shown must be good.
    Permissive,
    /// They must.
    #[default]
    Strict,
}

/// Mutual TLS on the admin port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdminTls {
    /// As [`Tls::directory`], of another CA.
    pub directory: PathBuf,
    /// As [`Tls::name`], whatever is given there: the two ports may have their certificates from different hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Tls {
    /// TLS from this folder, otherwise as by default.
    #[must_use]
    pub fn from_directory(directory: impl Into<PathBuf>) -> Tls {
        Tls {
            mode: TlsMode::Strict,
            directory: directory.into(),
            name: None,
            max_connection_age: default::max_connection_age(),
            max_handshakes: default::max_handshakes(),
            handshake_timeout: default::handshake_timeout(),
        }
    }

    pub(crate) fn check(&self, line: usize) -> Result<(), ConfigError> {
        let fail = |field, value: String, range| Err(ConfigError::Range { field, value, range, line });
        if self.directory.as_os_str().is_empty() {
            return fail("tls.directory", "\"\"".to_owned(), "the path of a folder");
        }
        if let Some(name) = self.name.as_deref().filter(|name| !is_stem(name)) {
            return fail("tls.name", format!("\"{name}\""), STEM);
        }
        if !(1..=65_536).contains(&self.max_handshakes) {
            return fail("tls.maxHandshakes", self.max_handshakes.to_string(), "1 to 65536");
        }
        if self.handshake_timeout.0.is_zero() {
            return fail("tls.handshakeTimeout", self.handshake_timeout.to_string(), "longer than 0s");
        }
        Ok(())
    }
}

impl AdminTls {
    pub(crate) fn check(&self, line: usize) -> Result<(), ConfigError> {
        let fail = |field, value: String, range| Err(ConfigError::Range { field, value, range, line });
        if self.directory.as_os_str().is_empty() {
            return fail("adminTls.directory", "\"\"".to_owned(), "the path of a folder");
        }
        if let Some(name) = self.name.as_deref().filter(|name| !is_stem(name)) {
            return fail("adminTls.name", format!("\"{name}\""), STEM);
        }
        Ok(())
    }
}

const STEM: &str = "the beginning of a file's name, without a slash";

fn is_stem(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && !name.starts_with('.')
}

mod default {
    use std::time;

    use crate::Duration;

    pub fn max_connection_age() -> Duration {
        Duration(time::Duration::from_secs(3600))
    }

    pub fn max_handshakes() -> u32 {
        256
    }

    pub fn handshake_timeout() -> Duration {
        Duration(time::Duration::from_secs(10))
    }
}

mod is_default {
    use super::{TlsMode, default};
    use crate::Duration;

    pub fn mode(value: &TlsMode) -> bool {
        *value == TlsMode::default()
    }

    pub fn max_connection_age(value: &Duration) -> bool {
        *value == default::max_connection_age()
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub fn max_handshakes(value: &u32) -> bool {
        *value == default::max_handshakes()
    }

    pub fn handshake_timeout(value: &Duration) -> bool {
        *value == default::handshake_timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::{AdminTls, Tls};
    use crate::{Config, TlsMode};

    #[test]
    fn what_is_written_is_read_back() {
        let tls = Tls { name: Some("sessions-0".to_owned()), ..Tls::from_directory("/etc/gannet/tls") };
        let admin = AdminTls { directory: "/etc/gannet/admin-tls".into(), name: None };
        let config = Config { tls: Some(tls), admin_tls: Some(admin), ..Config::default() };
        let text = config.write().unwrap();
        assert_eq!(Config::parse(&text).unwrap(), config);
        assert!(!text.contains("maxHandshakes") && !text.contains("mode"), "{text}");
    }

    #[test]
    fn a_folder_is_all_that_is_needed() {
        let config = Config::parse("tls: {directory: /tls}\n").unwrap();
        let tls = config.tls.unwrap();
        assert_eq!(tls, Tls::from_directory("/tls"));
        assert_eq!(tls.mode, TlsMode::Strict);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field_and_line() {
        for (text, words) in [
            ("tls: {}\n", &["directory", "line 1"][..]),
            ("workers: 1\ntls: {directory: ''}\n", &["tls.directory", "line 2"]),
            ("tls: {directory: /tls, name: ../other}\n", &["tls.name", "line 1"]),
            ("tls: {directory: /tls, maxHandshakes: 0}\n", &["tls.maxHandshakes: 0", "65536"]),
            ("tls: {directory: /tls, handshakeTimeout: 0s}\n", &["tls.handshakeTimeout: 0s"]),
            ("tls: {directory: /tls, mode: Mutual}\n", &["Mutual", "Strict"]),
            ("adminTls: {directory: /tls, name: a/b}\n", &["adminTls.name", "line 1"]),
        ] {
            let message = Config::parse(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{text:?}: {message}");
        }
    }
}
