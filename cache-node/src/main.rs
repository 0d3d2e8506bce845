//! A placeholder until the node is wired.
fn main() {}
