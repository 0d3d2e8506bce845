//! When requests are due in an open loop.

use crate::random::Random;

/// The times at which requests are due, one after the other, whatever became of those before: so that a server that
/// stalls is charged for every request that would have come meanwhile (coordinated omission).
#[derive(Debug)]
pub struct Schedule {
    /// Nanoseconds between two requests, on average.
    interval: f64,
    next: f64,
    /// Where arrivals are a Poisson process; otherwise they are evenly spaced.
    poisson: Option<Random>,
}

impl Schedule {
    /// From `start` (nanoseconds), `rate` requests a second.
    pub fn new(start: u64, rate: f64, poisson: Option<Random>) -> Schedule {
        Schedule { interval: 1e9 / rate, next: start as f64, poisson }
    }

    /// When the next request is due, in nanoseconds.
    pub fn due(&self) -> u64 {
        self.next as u64
    }

    /// The next request was taken care of.
    pub fn advance(&mut self) {
        let wait = self.poisson.as_mut().map_or(1.0, |random| -random.unit().ln());
        self.next += wait * self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use crate::random::Random;

    #[test]
    fn requests_are_due_at_the_rate() {
        for poisson in [None, Some(Random::new(5))] {
            let mut schedule = Schedule::new(1_000, 50_000.0, poisson);
            assert_eq!(schedule.due(), 1_000);
            for _ in 0..50_000 {
                schedule.advance();
            }
            let second = schedule.due() as f64 - 1_000.0;
            assert!((second - 1e9).abs() < 2e7, "{second}");
        }
    }
}
