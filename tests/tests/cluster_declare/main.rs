//! "I declare a cache as a Kubernetes resource, and my application uses it."
//!
//! Every test is a scenario in a namespace of its own, with an operator of its own that the chart installs there, on a
//! real Kubernetes with three nodes: so they run side by side. `tests/run cluster` brings the cluster up around them.

mod change;
mod conflict;
mod look;
mod memory;
mod operators;
mod repair;
mod scale;
mod serve;
