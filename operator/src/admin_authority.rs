//! The operator's own CA, by which nodes' admin ports and the operator know each other. It has nothing to do with the CAs of
//! the data ports, so that what goes wrong there can be seen and mended from here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::info;

use crate::certificate::{Authority, CertificateError};
use crate::material::CaMaterial;
use crate::node_client::{IdentityError, Speaker};
use crate::tls;

/// Nothing but the nodes' admin ports trusts it, and a new one takes the time that a Secret takes to reach the pods.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// At the start of an operator a CA that ends within this time is replaced.
const REPLACED_BEFORE_SECONDS: i64 = 365 * 24 * 3600;
/// The operator's own certificate is in no Secret: it is made anew when half of this has passed.
const OWN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Another operator may have made the CA at the same moment.
const TRIES: usize = 3;

/// The CA, and how the operator speaks to admin ports.
pub struct AdminAuthority {
    pub authority: Authority,
    speaker: Mutex<Option<(Speaker, Timestamp)>>,
}

/// A CA of the operator that could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum AdminAuthorityError {
    #[error("Secret {name} with the CA of the admin ports: {source}")]
    Api {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("Secret {0} with the CA of the admin ports is changed again and again: is there another operator?")]
    Contended(String),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl AdminAuthority {
    /// Reads the CA from the Secret `name`; makes it where there is none, or none that is good for another year.
    ///
    /// # Errors
    /// [`AdminAuthorityError`].
    pub async fn load(client: &Client, namespace: &str, name: &str) -> Result<AdminAuthority, AdminAuthorityError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let failed = |source| AdminAuthorityError::Api { name: name.to_owned(), source };
        for _ in 0..TRIES {
            let now = Timestamp::now().as_second();
            let stored = api.get_opt(name).await.map_err(failed)?;
            let known = stored.as_ref().and_then(CaMaterial::read);
            let usable = known.as_ref().filter(|ca| ca.current.not_after - REPLACED_BEFORE_SECONDS > now);
            if let Some(authority) = usable.and_then(|ca| ca.authority(&ca.current.key)) {
                return Ok(AdminAuthority { authority, speaker: Mutex::default() });
            }
            info!(secret = name, "making a CA for the admin ports");
            let made = Authority::make(&format!("gannet admin {now}"), LIFE, now)?;
            let written = match stored {
                Some(stored) => api.replace(name, &PostParams::default(), &filled(stored, &made)).await,
                None => {
                    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
                    let empty = Secret { metadata, type_: Some("Opaque".to_owned()), ..Secret::default() };
                    api.create(&PostParams::default(), &filled(empty, &made)).await
                }
            };
            match written {
                Ok(_) => return Ok(AdminAuthority { authority: made, speaker: Mutex::default() }),
                // Somebody else was faster: theirs is as good.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(AdminAuthorityError::Contended(name.to_owned()))
    }

    /// How to speak to admin ports now.
    ///
    /// # Errors
    /// [`AdminAuthorityError`] where the operator's own certificate cannot be made.
    pub fn speaker(&self, now: Timestamp) -> Result<Speaker, AdminAuthorityError> {
        let mut speaker = self.speaker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, until)) = speaker.as_ref()
            && now < *until
        {
            return Ok(known.clone());
        }
        let pair = self.authority.issue(&tls::outsider(tls::OPERATOR), OWN_LIFE, now.as_second())?;
        let made = Speaker::new([&self.authority.certificate], Some(&pair))?;
        *speaker = Some((made.clone(), now + OWN_LIFE / 2));
        Ok(made)
    }
}

fn filled(mut secret: Secret, made: &Authority) -> Secret {
    let data = secret.data.get_or_insert_default();
    data.insert("ca.crt".to_owned(), ByteString(made.certificate.pem().into_bytes()));
    data.insert("ca.key".to_owned(), ByteString(made.key_pem().into_bytes()));
    secret
}
