//! Sequences of requests, drawn by dice: mostly sensible, often odd, now and then broken.

/// A small generator of random numbers (SplitMix64), so that a seed gives the same sequence everywhere and for ever.
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Bytes of a value that are drawn; a longer one repeats them.
const LONGEST_PATTERN: u64 = 61;

/// The keys of a sequence; each sequence has its own, so that none depends on another.
pub fn keys(seed: u64) -> [String; 4] {
    [0, 1, 2, 3].map(|key| format!("s{seed}x{key}"))
}

/// A sequence of requests: mostly sensible, often odd, now and then broken.
pub fn generate(dice: &mut Dice, seed: u64, tokens: &[String; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Renewing has sequences of its own: what counting does to a stale item is on the list of differences.
    let renews = dice.one_in(3);
    for _ in 0..=dice.below(20) {
        if renews {
            renewal(dice, seed, tokens, &mut bytes);
        } else {
            request(dice, seed, tokens, &mut bytes);
        }
    }
    // Only at the end: a server that closes with requests unread resets the connection, and replies are lost.
    if dice.one_in(8) {
        bytes.extend_from_slice(b"quit\r\n");
    }
    if dice.one_in(8) {
        let length = bytes.len() as u64;
        bytes.truncate(dice.below(length + 1) as usize);
    }
    bytes
}

const NUMBERS: &[&str] =
    &["0", "1", "7", "-1", "+3", "007", "18446744073709551615", "18446744073709551616", "x", "1x", "", "99999"];
const FLAGS: &[&str] = &["0", "0", "0", "1", "4294967295", "65536", "-1", "x", ""];
const EXPTIMES: &[&str] = &["0", "0", "0", "100", "-1", "-5", "2592000", "2592001", "2000000000", "x", "", "+9"];
const LINE_ENDS: &[&[u8]] = &[b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n"];
const TAILS: &[&str] = &["", "", "", "", "", " noreply", " noreply", " ", "  noreply ", " extra", " noreply extra"];
const GARBAGE: &[&[u8]] = &[
    b"",
    b" ",
    b"foo",
    b"get",
    b"gets",
    b"gat 0",
    b"set",
    b"set a",
    b"incr",
    b"GET a",
    b"get\ta",
    b"\r",
    b"\0",
    b"a\0b",
    b"mn",
    b"mn x",
    b"stats nonsense",
    b"verbosity",
    b"verbosity 1",
    b"touch",
    b"delete",
    b"delete a b c d",
    b"flush_all x",
    b"cas a 0 0",
    b"\xff\xfe",
    b"noreply",
    b"shutdown",
    b"bget none",
    b"END",
    b"STORED",
    b"quitter",
    b"versions",
];

fn request(dice: &mut Dice, seed: u64, tokens: &[String; 4], out: &mut Vec<u8>) {
    let keys = keys(seed);
    let index = dice.below(4) as usize;
    let key = keys[index].as_str();
    let spaces = if dice.one_in(20) { "  " } else { " " };
    let tail = dice.pick(TAILS);
    let line_end = dice.pick(LINE_ENDS);
    let line = match dice.below(26) {
        20..=25 => return meta(dice, key, tokens[index].as_str(), out),
        0..=5 => return store(dice, key, tokens[index].as_str(), out),
        6..=9 => retrieval(dice, &keys, spaces),
        10 => format!("gat{}{spaces}{} {key}", if dice.one_in(2) { "s" } else { "" }, dice.pick(EXPTIMES)),
        11..=12 => format!("delete{spaces}{key}{}{tail}", dice.pick(&["", "", "", " 0", " 1"])),
        13..=15 => format!("{}{spaces}{key} {}{tail}", dice.pick(&["incr", "decr"]), dice.pick(NUMBERS)),
        16 => format!("touch{spaces}{key} {}{tail}", dice.pick(EXPTIMES)),
        17 => format!("verbosity {}{tail}", dice.pick(&["0", "1", "x"])),
        _ => {
            out.extend_from_slice(dice.pick(GARBAGE));
            out.extend_from_slice(line_end);
            return;
        }
    };
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(line_end);
}

const META_FLAGS: &[&str] = &[
    "c", "f", "h", "k", "s", "v", "v", "q", "u", "O123", "Oab", "T0", "T0", "T-1", "Tx", "F7", "Fx", "MA", "ME", "MP",
    "MR", "MS", "MD", "M+", "MI", "M", "D5", "Dx", "J3", "b", "C1", "P", "Lx", "y",
];

fn meta(dice: &mut Dice, key: &str, token: &str, out: &mut Vec<u8>) {
    let verb = dice.pick(&["mg", "mg", "ms", "ms", "md", "ma", "mn"]);
    let mut line = format!("{verb} {key}");
    let value = value(dice);
    if verb == "ms" {
        line.push_str(&format!(" {}", if dice.one_in(20) { value.len() + 1 } else { value.len() }));
    }
    for _ in 0..dice.below(6) {
        line.push(' ');
        line.push_str(dice.pick(META_FLAGS));
    }
    if dice.one_in(4) {
        line.push_str(&format!(" C{token}"));
    }
    if verb == "ma" && dice.one_in(4) {
        line.push_str(" N0");
    }
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
    if verb == "ms" {
        out.extend_from_slice(&value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Times that are far enough from each other for no second to matter.
const TIMES: &[&str] = &["0", "1000", "1000", "3000"];
const GET_FLAGS: &[&str] = &[
    "N1000", "N1000", "N3000", "N0", "R500", "R2000", "R2000", "R5000", "R5000", "R0", "R-1", "T0", "T1000", "T3000",
    "t", "t", "c", "h", "l", "v", "v", "k", "s", "f", "q", "u", "Oxy", "I", "N", "Rx",
];
const SET_FLAGS: &[&str] = &[
    "I",
    "I",
    "C1",
    "C1",
    "C0",
    "C99999999999",
    "T0",
    "T1000",
    "T3000",
    "MA",
    "MP",
    "ME",
    "MR",
    "q",
    "k",
    "F5",
    "Oxy",
    "l",
];
const DELETE_FLAGS: &[&str] = &["I", "I", "I", "I", "T1000", "T3000", "T0", "T-1", "C1", "q", "k", "Oxy"];

/// What clients do that keep others from renewing the same item: make it, mark it as stale, win its renewal.
fn renewal(dice: &mut Dice, seed: u64, tokens: &[String; 4], out: &mut Vec<u8>) {
    let keys = keys(seed);
    // Few keys, so that something happens to each.
    let index = dice.below(2) as usize;
    let (key, token) = (keys[index].as_str(), tokens[index].as_str());
    let time = dice.pick(TIMES);
    let (mut line, choices, value) = match dice.below(16) {
        0..=6 => (format!("mg {key}"), GET_FLAGS, ""),
        7..=9 => (format!("ms {key} 2"), SET_FLAGS, "xy\r\n"),
        10..=11 => (format!("md {key}"), DELETE_FLAGS, ""),
        12 => (format!("touch {key} {time}"), &[][..], ""),
        13 => (format!("{} {key} 0 {time} 1", dice.pick(&["set", "add", "append", "replace"])), &[][..], "z\r\n"),
        14 => (format!("gat {time} {key}"), &[][..], ""),
        _ => (format!("get {key}"), &[][..], ""),
    };
    if !choices.is_empty() {
        for _ in 0..dice.below(5) {
            line.push_str(&format!(" {}", dice.pick(choices)));
        }
        if dice.one_in(6) {
            line.push_str(&format!(" C{token}"));
        }
    }
    out.extend_from_slice(format!("{line}\r\n{value}").as_bytes());
}

fn retrieval(dice: &mut Dice, keys: &[String; 4], spaces: &str) -> String {
    let mut line = dice.pick(&["get", "get", "gets"]).to_owned();
    let most = if dice.one_in(10) { 40 } else { 4 };
    for _ in 0..=dice.below(most) {
        line.push_str(spaces);
        line.push_str(&keys[dice.below(4) as usize]);
    }
    line
}

fn store(dice: &mut Dice, key: &str, token: &str, out: &mut Vec<u8>) {
    let verb = dice.pick(&["set", "set", "set", "add", "replace", "append", "prepend", "cas", "cas"]);
    let value = value(dice);
    // Announced as it is, a little wrong, or not at all.
    let announced = match dice.below(24) {
        0 => (value.len() + 1).to_string(),
        1 => value.len().saturating_sub(1).to_string(),
        2 => dice.pick(&["x", "-1", "", "2147483647", "0x10"]).to_owned(),
        _ => value.len().to_string(),
    };
    let cas = match (verb, dice.below(8)) {
        ("cas", 0) => " 1".to_owned(),
        ("cas", 1) => format!(" {}", dice.pick(NUMBERS)),
        ("cas", _) => format!(" {token}"),
        _ => String::new(),
    };
    let (flags, exptime, tail) = (dice.pick(FLAGS), dice.pick(EXPTIMES), dice.pick(TAILS));
    out.extend_from_slice(format!("{verb} {key} {flags} {exptime} {announced}{cas}{tail}\r\n").as_bytes());
    out.extend_from_slice(&value);
    out.extend_from_slice(if dice.one_in(30) { b"\n" } else { b"\r\n" });
}

fn value(dice: &mut Dice) -> Vec<u8> {
    let length = match dice.below(12) {
        0 => 0,
        1 => dice.below(5000),
        2 => dice.below(70_000),
        3..=6 => return dice.pick(NUMBERS).as_bytes().to_vec(),
        _ => dice.below(40),
    };
    let byte = |dice: &mut Dice| match dice.below(12) {
        0 => b'\r',
        1 => b'\n',
        2 => b' ',
        3 => b'9',
        // Where a value is taken for requests, chance must not write one that is on the list of differences.
        _ => Some(dice.next() as u8).filter(|byte| !b"\0m".contains(byte)).unwrap_or(b'x'),
    };
    // What a long value is made of says no more than what a short one is, and takes longer to draw.
    let mut pattern: Vec<u8> = (0..length.min(LONGEST_PATTERN)).map(|_| byte(dice)).collect();
    if length > LONGEST_PATTERN {
        // Where it is taken for requests, each must end.
        pattern.push(b'\n');
    }
    pattern.iter().copied().cycle().take(length as usize).collect()
}

/// Cuts a sequence into packets.
pub fn cut<'a>(dice: &mut Dice, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let longest = if dice.one_in(2) { 8 } else { 20_000 };
        let (piece, behind) = rest.split_at((1 + dice.below(longest) as usize).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}
