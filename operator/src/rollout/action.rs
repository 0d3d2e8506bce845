//! What is asked for by hand: the annotation `gannet.dev/rollout=<action>@<revision>`.
//!
//! An action names the revision that it is about, and is done once: a manifest that is applied again, or too late, does nothing.
//! To ask for the same again, something is put after a slash, as `kubectl gannet` does: `promote@demo-1a2b/2`.

/// The annotation's name.
pub const ANNOTATION: &str = "gannet.dev/rollout";

/// What is asked for by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub kind: Kind,
    pub revision: String,
    /// Word for word.
    pub text: String,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Go on to the next step, whatever this one waits for.
    Promote,
    /// Go back.
    Abort,
    /// Stand still.
    Pause,
    /// Go on with this step.
    Resume,
    /// Try a rejected revision again.
    Retry,
}

impl Action {
    /// `None` for what is no action.
    #[must_use]
    pub fn parse(text: &str) -> Option<Action> {
        let (kind, rest) = text.split_once('@')?;
        let revision = rest.split('/').next().filter(|revision| !revision.is_empty())?;
        let kind = match kind {
            "promote" => Kind::Promote,
            "abort" => Kind::Abort,
            "pause" => Kind::Pause,
            "resume" => Kind::Resume,
            "retry" => Kind::Retry,
            _ => return None,
        };
        Some(Action { kind, revision: revision.to_owned(), text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Kind};

    #[test]
    fn an_action_names_its_revision() {
        let action = Action::parse("promote@demo-1a2b/2").unwrap();
        assert_eq!((action.kind, action.revision.as_str()), (Kind::Promote, "demo-1a2b"));
        for text in ["", "promote", "promote@", "promote@/1", "restart@demo-1"] {
            assert_eq!(Action::parse(text), None, "{text}");
        }
    }
}
