//! "My mTLS certificates, the CA included, rotate by themselves and no connection ever fails because of it."
//!
//! Scenarios as in `cluster_declare`.

mod heal;
mod issuers;
mod rival;
mod rotate;
mod straggle;
