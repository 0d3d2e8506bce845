//! Certificates of somebody else: the nodes serve what is in a Secret that the operator looks at and never writes.

use k8s_openapi::api::core::v1::Secret;

use crate::certificate::{Certificate, bundle_hash};
use crate::material::{self, BUNDLE};
use crate::observe::{NodePod, Observed};

/// The certificate's and the key's names in the Secret, without their endings: as in a Secret of the type `kubernetes.io/tls`.
pub const STEM: &str = "tls";

/// What the Secret holds, and who serves it.
#[derive(Clone, Debug)]
pub struct Given {
    pub secret: String,
    /// Or why it is of no use.
    pub content: Result<GivenContent, String>,
    /// Pods that serve something else.
    pub stale: Vec<String>,
    /// Its certificate ends, and nothing newer is in it.
    pub is_late: bool,
}

/// What the nodes are to serve.
#[derive(Clone, Debug)]
pub struct GivenContent {
    pub leaf: Certificate,
    pub bundle: Vec<Certificate>,
}

impl Given {
    /// Looks at the Secret, and at what the pods say that they serve.
    pub fn look(name: &str, observed: &Observed, renew_before: i64, now: i64) -> Given {
        let content = match &observed.secrets.given {
            Some(secret) => GivenContent::read(secret, now),
            None => Err("it does not exist".to_owned()),
        };
        let serves_another = |pod: &&NodePod| {
            let report = pod.report.as_ref().and_then(|report| report.as_ref().ok());
            let tls = report.and_then(|report| report.tls.as_ref());
            tls.zip(content.as_ref().ok()).is_some_and(|(tls, content)| {
                tls.certificate.serial != content.leaf.serial || tls.bundle != bundle_hash(&content.bundle)
            })
        };
        let given = observed.pods.iter().filter(|pod| pod.mounts.given_tls && !pod.terminating);
        Given {
            secret: name.to_owned(),
            stale: given.filter(serves_another).map(|pod| pod.name.clone()).collect(),
            is_late: content.as_ref().is_ok_and(|content| content.leaf.not_after - now < renew_before / 2),
            content,
        }
    }
}

impl GivenContent {
    fn read(secret: &Secret, now: i64) -> Result<GivenContent, String> {
        let bundle = material::certificates(secret, BUNDLE);
        if bundle.is_empty() {
            return Err(format!(
                "{BUNDLE} has no CA that could be read: without one no client could be told from another"
            ));
        }
        let (certificate, key) = (format!("{STEM}.crt"), format!("{STEM}.key"));
        let pair = material::pair(secret, &certificate, &key);
        let leaf =
            pair.ok_or_else(|| format!("{certificate} and {key} are not a certificate and its key"))?.certificate;
        if leaf.not_after <= now {
            return Err(format!("{certificate} has ended"));
        }
        Ok(GivenContent { leaf, bundle })
    }
}
