//! The flags of meta commands (protocol.txt, "Meta Commands").

use crate::command::Rejection;
use crate::number;
use crate::parse::MAX_KEY_LENGTH;

/// Words that a meta command's line may have at most, its name and key included.
pub(crate) const MOST_WORDS: usize = 18;
/// The longest opaque token with its `O`.
const LONGEST_OPAQUE: usize = 32;

/// Which meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVerb {
    /// `mg`: get.
    Get,
    /// `ms`: set.
    Set,
    /// `md`: delete.
    Delete,
    /// `ma`: arithmetic.
    Arithmetic,
}

/// What a meta command's flags ask for. Flags that only ask for something to be told are left to
/// [`MetaFlags::tokens`], because they are answered in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaOptions {
    /// `b`: the key is in base64.
    pub binary_key: bool,
    /// `q`: no answer where nothing is unusual.
    pub quiet: bool,
    /// `v`: the value is asked for.
    pub value: bool,
    /// `u`: the item does not count as read.
    pub no_update: bool,
    /// `T`: the expiry time that the item gets.
    pub exptime: Option<i64>,
    /// `N`: the expiry time of an item that is made because there is none.
    pub vivify: Option<i64>,
    /// `F`: the client's flags.
    pub flags: u32,
    /// `C`: the CAS that the item must have.
    pub compare: Option<u64>,
    /// `E`: the CAS that the item gets.
    pub new_cas: Option<u64>,
    /// `R`: with less time left than up to this expiry time, the item is to be renewed.
    pub recache: Option<i64>,
    /// `l`: the time of the last access is asked for.
    pub last_access: bool,
    /// `I`: the item is to be out of date, instead of deleted or not stored.
    pub invalidate: bool,
    /// `M`: how to set, or to count.
    pub mode: Option<u8>,
    /// `J`: the number of an item that is made.
    pub initial: u64,
    /// `D`: by how much to count.
    pub delta: Option<u64>,
}

/// The flags of one meta command as they were sent, words with spaces between them.
#[derive(Clone, Copy, Debug)]
pub struct MetaFlags<'a>(pub &'a [u8]);

impl<'a> MetaFlags<'a> {
    /// Each flag with the token behind its letter, in order.
    pub fn tokens(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let words = self.0.split(|byte| *byte == b' ');
        words.filter_map(|word| word.split_first().map(|(letter, token)| (*letter, token)))
    }

    /// What the flags ask for, of an item with this `key` as it was sent.
    ///
    /// # Errors
    /// [`Rejection`] as memcached words it: for the first flag that is unknown or there twice, or else for the last
    /// whose token cannot be read.
    pub fn read(self, key: &[u8]) -> Result<MetaOptions, Rejection> {
        let mut options = MetaOptions::default();
        let mut seen = [false; 128];
        let mut result = Ok(());
        for (letter, token) in self.tokens() {
            match seen.get_mut(usize::from(letter)) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(Rejection::DuplicateFlag),
            }
            let bad_token = || Rejection::BadToken;
            let read = match letter {
                b'b' => {
                    options.binary_key = true;
                    decode(key, &mut [0; MAX_KEY_LENGTH]).map(|_| ()).ok_or(Rejection::BadEncoding)
                }
                b'q' => set(&mut options.quiet),
                b'v' => set(&mut options.value),
                b'u' => set(&mut options.no_update),
                b'T' => number::signed(token).map(|time| options.exptime = Some(time)).ok_or_else(bad_token),
                b'N' => number::signed(token).map(|time| options.vivify = Some(time)).ok_or_else(bad_token),
                b'R' => number::signed(token).map(|time| options.recache = Some(time)).ok_or_else(bad_token),
                b'l' => set(&mut options.last_access),
                b'I' => set(&mut options.invalidate),
                b'E' => number::unsigned(token).map(|cas| options.new_cas = Some(cas)).ok_or_else(bad_token),
                b'C' => number::unsigned(token).map(|cas| options.compare = Some(cas)).ok_or_else(bad_token),
                // The one flag of which memcached does not say what is wrong, if anything else is.
                b'F' => {
                    let read = number::flags(token).map(|flags| options.flags = flags);
                    read.ok_or(result.err().unwrap_or(Rejection::BadLine))
                }
                b'J' => number::unsigned(token).map(|number| options.initial = number).ok_or(Rejection::BadInitial),
                b'D' => number::unsigned(token).map(|delta| options.delta = Some(delta)).ok_or(Rejection::BadMetaDelta),
                b'M' => match token {
                    [mode] => {
                        options.mode = Some(*mode);
                        Ok(())
                    }
                    _ => Err(Rejection::BadMode),
                },
                b'O' if token.len() >= LONGEST_OPAQUE => Err(Rejection::OpaqueTooLong),
                b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'h' => Ok(()),
                _ => return Err(Rejection::InvalidFlag),
            };
            if read.is_err() {
                result = read;
            }
        }
        result.map(|()| options)
    }
}

fn set(flag: &mut bool) -> Result<(), Rejection> {
    *flag = true;
    Ok(())
}

impl MetaOptions {
    /// The key itself: `sent`, or what it encodes, written to `room`; none where it does not encode anything.
    pub fn key<'a>(&self, sent: &'a [u8], room: &'a mut [u8; MAX_KEY_LENGTH]) -> Option<&'a [u8]> {
        if !self.binary_key {
            return Some(sent);
        }
        let length = decode(sent, room)?;
        Some(&room[..length])
    }
}

/// Decodes base64 with its padding; returns the length. At least one byte comes out.
fn decode(text: &[u8], room: &mut [u8]) -> Option<usize> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let length = text.len() / 4 * 3 - padding;
    let room = room.get_mut(..length)?;
    for (quad, out) in text.chunks(4).zip(room.chunks_mut(3)) {
        let mut bits = 0_u32;
        for byte in quad {
            bits = bits << 6 | u32::from(digit(*byte)?);
        }
        out.copy_from_slice(&bits.to_be_bytes()[1..=out.len()]);
    }
    // Padding in the middle would have been read as zero digits.
    text[..text.len() - padding].iter().all(|byte| *byte != b'=').then_some(length)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        b'=' => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{MetaFlags, MetaOptions, decode};
    use crate::command::Rejection;
    use crate::parse::MAX_KEY_LENGTH;

    #[test]
    fn flags_say_what_is_asked_for() {
        let flags = MetaFlags(b"v T30 q Oabc k  C7 F5 MA b");
        let options = flags.read(b"Zm9v").unwrap();
        assert_eq!(
            options,
            MetaOptions {
                binary_key: true,
                quiet: true,
                value: true,
                exptime: Some(30),
                compare: Some(7),
                flags: 5,
                mode: Some(b'A'),
                ..MetaOptions::default()
            }
        );
        let options = MetaFlags(b"R30 N60 l I E9").read(b"k").unwrap();
        let MetaOptions { recache, vivify, last_access, invalidate, new_cas, .. } = options;
        assert_eq!((recache, vivify, last_access, invalidate, new_cas), (Some(30), Some(60), true, true, Some(9)));
        let letters: Vec<u8> = flags.tokens().map(|(letter, _)| letter).collect();
        assert_eq!(letters, b"vTqOkCFMb");
    }

    #[test]
    fn what_is_wrong_is_told_in_memcacheds_words() {
        for (flags, rejection) in [
            (&b"v v"[..], Rejection::DuplicateFlag),
            (b"\xff", Rejection::DuplicateFlag),
            (b"x", Rejection::InvalidFlag),
            (b"Tx x", Rejection::InvalidFlag),
            (b"T", Rejection::BadToken),
            (b"T1 Cx Mxx", Rejection::BadMode),
            (b"Fx", Rejection::BadLine),
            (b"b Fx", Rejection::BadEncoding),
            (b"Mxx b", Rejection::BadEncoding),
            (b"Jx", Rejection::BadInitial),
            (b"Dx", Rejection::BadMetaDelta),
            (b"O0123456789012345678901234567890123", Rejection::OpaqueTooLong),
            (b"N", Rejection::BadToken),
            (b"Rx l I", Rejection::BadToken),
            (b"E-1", Rejection::BadToken),
        ] {
            assert_eq!(MetaFlags(flags).read(b"k"), Err(rejection), "{}", flags.escape_ascii());
        }
    }

    #[test]
    fn base64_is_decoded_or_refused() {
        for (text, bytes) in [
            ("Zm9v", Some("foo")),
            ("Zm8=", Some("fo")),
            ("Zg==", Some("f")),
            ("", None),
            ("Zm9", None),
            ("Z===", None),
        ] {
            let mut room = [0; MAX_KEY_LENGTH];
            let decoded = decode(text.as_bytes(), &mut room).map(|length| &room[..length]);
            assert_eq!(decoded, bytes.map(str::as_bytes), "{text}");
        }
        for text in ["Zm9v!m9v", "Z=9vZm9v", "Zg==Zg=="] {
            assert_eq!(decode(text.as_bytes(), &mut [0; 20]), None, "{text}");
        }
    }
}
