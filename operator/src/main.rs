//! A placeholder until the operator is wired.
fn main() {}
