//! Whether a canary does as well as it would have done on the stable revision: a pure function of windows.
//!
//! Every node has its own keys, so the levels of two nodes differ by nature. What is compared is therefore change: that of the
//! canaries since before the rollout, beside that of their peers in the same time (difference in differences). How far a
//! change can go by chance is learned from the pods themselves, window by window, before the rollout and beside it; it
//! is never taken to be less than what chance alone gives in so many requests.
//!
//! A metric fails where its change is beyond the limit, and further from none than chance goes in 999 of 1000 looks. It passes
//! where it is within the limit and the limit is larger than the noise. Everything else is inconclusive, and that never passes.

mod before;
mod judge;
mod metric;
mod noise;
mod tally;
mod window;

pub use before::Before;
pub use judge::Verdict;
pub use metric::{Compare, Metric, Name, Side};
pub use tally::{Analysis, Count, Outcome, Sides, Tally, default_metrics, tally};
pub use window::{Cell, Tick, Window};

#[cfg(test)]
mod replay;
#[cfg(test)]
mod tests;
