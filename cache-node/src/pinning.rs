//! Threads bound to processors: a processor's caches are worth most to a thread that stays.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Why a thread is not bound to a processor.
#[derive(Debug, thiserror::Error)]
pub enum PinningError {
    /// The machine does not have it, or this process may not use it.
    #[error("pinning: processor {processor} is not one that this process may run on ({allowed}); choose among those")]
    NotAllowed {
        /// The processor in the configuration.
        processor: u16,
        /// Those that there are.
        allowed: String,
    },
    /// The system refuses.
    #[error("pinning: {0}")]
    System(io::Error),
}

/// The processors that the threads are bound to, in the order in which threads are started.
#[derive(Clone, Debug)]
pub struct Pinning(Vec<u16>);

impl Pinning {
    /// Takes processors that this process may run on; without any, no thread is bound.
    ///
    /// # Errors
    /// [`PinningError`], naming those that there are.
    pub fn new(processors: &[u16]) -> Result<Pinning, PinningError> {
        if processors.is_empty() {
            return Ok(Pinning(Vec::new()));
        }
        let allowed = sched_getaffinity(None).map_err(|error| PinningError::System(error.into()))?;
        match processors.iter().find(|processor| !allowed.is_set(usize::from(**processor))) {
            Some(processor) => Err(PinningError::NotAllowed { processor: *processor, allowed: list(&allowed) }),
            None => Ok(Pinning(processors.to_vec())),
        }
    }

    /// The processor of the thread that is started as this one.
    #[must_use]
    pub fn of_thread(&self, index: usize) -> Option<u16> {
        self.0.get(index.checked_rem(self.0.len())?).copied()
    }
}

/// Binds the calling thread.
///
/// # Errors
/// [`PinningError::System`]
pub fn pin(processor: u16) -> Result<(), PinningError> {
    let mut set = CpuSet::new();
    set.set(usize::from(processor));
    sched_setaffinity(None, &set).map_err(|error| PinningError::System(error.into()))
}

fn list(set: &CpuSet) -> String {
    let numbers = (0..CpuSet::MAX_CPU).filter(|number| set.is_set(*number));
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{Pinning, PinningError};

    #[test]
    fn threads_take_the_processors_in_turn() {
        let pinning = Pinning(vec![4, 6]);
        assert_eq!([0, 1, 2, 3].map(|index| pinning.of_thread(index)), [Some(4), Some(6), Some(4), Some(6)]);
        assert_eq!(Pinning(Vec::new()).of_thread(3), None);
    }

    #[test]
    fn a_processor_that_is_not_there_is_refused_by_number() {
        let error = Pinning::new(&[1023]).unwrap_err();
        assert!(matches!(error, PinningError::NotAllowed { processor: 1023, .. }), "{error}");
        assert!(error.to_string().contains("(0"), "{error}");
    }
}
