//! The commands that are about the server and not about an item.

use super::{Body, Line, Step};
use crate::command::{Command, Rejection};
use crate::number;
use crate::streams::Streams;

impl Line<'_> {
    pub(super) fn verbosity(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        if !(2..=3).contains(&tokens.count) {
            return body.reject(Rejection::Unknown);
        }
        let noreply = tokens.noreply();
        match number::unsigned(tokens.word(1)) {
            Some(level) => body.done(Command::Verbosity { level, noreply }),
            None => body.reject_quietly(Rejection::BadLine, noreply),
        }
    }

    pub(super) fn memory_limit(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        let megabytes = number::unsigned(tokens.word(1)).and_then(|number| u32::try_from(number).ok());
        match megabytes {
            Some(megabytes) if (2..=3).contains(&tokens.count) => {
                body.done(Command::MemoryLimit { megabytes, noreply: tokens.noreply() })
            }
            _ => body.reject(Rejection::Unknown),
        }
    }

    pub(super) fn shutdown(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        let has_known_mode = tokens.count == 1 || tokens.count == 2 && tokens.word(1) == b"graceful";
        body.done(Command::Shutdown { has_known_mode })
    }

    pub(super) fn config(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        match (tokens.count, tokens.word(1), tokens.word(2)) {
            (3, b"get", b"cluster") => body.done(Command::Discover),
            _ => body.reject(Rejection::Unknown),
        }
    }

    pub(super) fn crawler(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        match (tokens.count, tokens.word(1), tokens.word(2)) {
            (3, b"metadump", b"all" | b"hash") => body.done(Command::Dump),
            _ => body.reject(Rejection::Unknown),
        }
    }

    pub(super) fn watch(&self, body: &Body<'_>) -> Step {
        let mut names = self.bytes.split(|byte| *byte == b' ').filter(|name| !name.is_empty()).skip(1).peekable();
        if names.peek().is_none() {
            return body.done(Command::Watch { streams: Streams::FETCHERS });
        }
        match names.map(Streams::named).try_fold(Streams::default(), |all, named| Some(all.and(named?))) {
            Some(streams) => body.done(Command::Watch { streams }),
            None => body.reject_quietly(Rejection::Unknown, self.tokens().noreply()),
        }
    }
}
