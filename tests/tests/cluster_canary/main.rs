//! "I roll a new version or configuration out to one node, it is compared with its peers, and it is promoted or rolled back without
//! me."
//!
//! Scenarios as in `cluster_declare`, each under load.

mod hand;
mod judged;
mod trouble;
