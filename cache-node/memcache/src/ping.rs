//! The ping protocol: `PING` is answered with `PONG`. It measures what a server costs that stores nothing.

use crate::command::{Command, Rejection};
use crate::parse::{LONGEST_LINE, Step};

/// As [`crate::parse`], of a line of the ping protocol.
pub(crate) fn parse(input: &[u8], start: usize, scanned: usize) -> Step {
    let rest = input.get(start..).unwrap_or_default();
    if rest.starts_with(b"PING\r\n") {
        return Step::Command { command: Command::Ping, next: start + b"PING\r\n".len() };
    }
    let known = scanned.min(rest.len());
    let Some(length) = memchr::memchr(b'\n', &rest[known..]).map(|at| at + known) else {
        return if rest.len() > LONGEST_LINE {
            Step::TooLong
        } else {
            Step::Partial { needed: rest.len() + 1, scanned: rest.len() }
        };
    };
    let command = match &rest[..length] {
        b"PING" => Command::Ping,
        _ => Command::Reject { rejection: Rejection::Unknown, noreply: false },
    };
    Step::Command { command, next: start + length + 1 }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::command::{Command, Rejection};
    use crate::parse::{LONGEST_LINE, Step};

    #[test]
    fn a_ping_is_one_and_everything_else_an_error() {
        let unknown = Command::Reject { rejection: Rejection::Unknown, noreply: false };
        for (line, command) in [
            (&b"PING\r\n"[..], Command::Ping),
            (b"PING\n", Command::Ping),
            (b"ping\r\n", unknown),
            (b"get key\r\n", unknown),
            (b"\r\n", unknown),
        ] {
            assert_eq!(parse(line, 0, 0), Step::Command { command, next: line.len() }, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_line_is_waited_for_within_limits() {
        assert_eq!(parse(b"xPIN", 1, 0), Step::Partial { needed: 4, scanned: 3 });
        assert_eq!(parse(&[b'x'; LONGEST_LINE + 1], 0, 0), Step::TooLong);
    }
}
