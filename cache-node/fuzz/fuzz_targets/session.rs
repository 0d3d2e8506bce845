//! A whole session on arbitrary bytes: it answers the same however the bytes were split into packets.
#![no_main]

use cache_node::conversation::Conversation;
use libfuzzer_sys::fuzz_target;

/// Lengths of packets that an input can choose.
const MOST_LENGTHS: usize = 16;
/// A line that has not ended by then closes the connection at once, and not when its end comes: that does depend on the
/// packets.
const LONGEST_TALK: usize = 2000;

fuzz_target!(|data: &[u8]| {
    let Some((&count, data)) = data.split_first() else { return };
    let (lengths, talk) = data.split_at(data.len().min(usize::from(count) % MOST_LENGTHS + 1));
    if talk.len() > LONGEST_TALK {
        return;
    }
    let (whole, is_open) = hold([talk].into_iter());
    let (pieces, is_still_open) = hold(Packets { rest: talk, lengths: lengths.iter().cycle() });
    assert_eq!(pieces.escape_ascii().to_string(), whole.escape_ascii().to_string());
    assert_eq!(is_open, is_still_open);
});

/// All replies of a conversation, and whether it is open in the end.
fn hold<'a>(packets: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let mut conversation = Conversation::new().expect("a conversation begins");
    for request in [&b"set k 7 0 5\r\nvalue\r\n"[..], b"set n 0 100 2\r\n10\r\n"] {
        conversation.hear(request).expect("no request breaks it");
    }
    // Some of these fill the output.
    let large = [&b"set l 0 0 40000\r\n"[..], &[b'l'; 40_000], b"\r\n"].concat();
    conversation.hear(&large).expect("no request breaks it");
    for packet in packets {
        conversation.hear(packet).expect("no request breaks it");
    }
    (without_statistics(conversation.replies()), conversation.is_open())
}

/// They tell of the time, and of the bytes that have been received so far.
fn without_statistics(replies: &[u8]) -> Vec<u8> {
    replies.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"STAT ")).flatten().copied().collect()
}

struct Packets<'a> {
    rest: &'a [u8],
    lengths: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl<'a> Iterator for Packets<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.lengths.next().unwrap_or(&0)) + 1;
        let (packet, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        (!packet.is_empty()).then_some(packet)
    }
}
