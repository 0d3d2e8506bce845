//! Items outlive the containers, pods and hosts that can be lost without them, and nothing that was deleted or is too old comes back
//! with them. What cannot be warm says so.
//!
//! Every test is a scenario in a namespace of its own, with an operator of its own, as in `cluster_declare`.

mod claims;
mod hosts;
mod memory;
mod upgrade;
