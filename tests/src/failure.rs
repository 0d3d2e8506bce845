//! Why a test failed, in words.

use std::error::Error;
use std::fmt::{self, Debug, Display, Formatter};

/// Why a test failed. It is built from any error, with all of its causes, and is itself none: so that `?` works on both.
pub struct Failure(String);

/// What a test comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure in words.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }

    /// The same failure, with what was being done before it.
    #[must_use]
    pub fn while_doing(self, what: impl Display) -> Failure {
        Failure(format!("{what}: {}", self.0))
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        // The API server's own sentence, without the structure around it.
        if let Some(kube::Error::Api(status)) = (&error as &dyn Error).downcast_ref() {
            return Failure(status.message.clone());
        }
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let words = error.to_string();
            // Some errors repeat their cause in their own words.
            if !text.contains(&words) {
                text = format!("{text}: {words}");
            }
            cause = error.source();
        }
        Failure(text)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The test harness prints a failed test's error in this form.
impl Debug for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fails with the words that follow unless the condition holds; for conditions that are waited for, where an assertion
/// would end the wait.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failure::new(format!($($words)+)));
        }
    };
}
