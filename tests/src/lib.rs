//! The harness of the end-to-end tests.

pub mod application;
pub mod bed;
pub mod canary;
pub mod cert_manager;
pub mod cluster;
pub mod crash;
pub mod failure;
pub mod figures;
pub mod hit_ratio;
pub mod http;
pub mod images;
pub mod journal;
pub mod load;
pub mod node;
pub mod operator;
pub mod power;
pub mod process;
pub mod readiness;
pub mod report;
pub mod rotation;
pub mod running_operator;
pub mod scenario;
pub mod secret;
pub mod source;
pub mod tls;
pub mod yaml;
