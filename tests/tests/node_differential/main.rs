//! Debian's memcached and cache-node side by side: the same bytes in, the same bytes out, but for a list of differences,
//! each with its reason.

mod answer;
mod sequence;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::{env, thread};

use memcache::{Limits, Step};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Memcached, Node, exchange};

use crate::answer::{Exactness, comparable};
use crate::sequence::{Dice, cut, generate, keys};

/// Generated sequences for each mode; `GANNET_SEQUENCES` asks for another number.
const SEQUENCES: u64 = 7000;
/// The first sequence; `GANNET_SEED` asks for another.
const SEED: u64 = 1;
const LONG_KEY: usize = 251;
/// The digits of the longest CAS.
const CAS_DIGITS: usize = 20;

type Difference = (&'static str, &'static [u8], &'static [u8], &'static [u8]);
/// What differs on purpose: why, what is sent, what memcached 1.6.18 answers, what cache-node answers.
const DIFFERENCES: &[Difference] = &[
    (
        "the version begins with memcached's, by which clients choose what they ask for, and goes on with the program's own",
        b"version\r\n",
        b"VERSION 1.6.18\r\n",
        concat!("VERSION 1.6.18-gannet-", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes(),
    ),
    (
        "memcached drops the replies to the requests that came in the same packet as a key that is too long",
        b"set d1 0 0 1\r\nx\r\nget kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\
          kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\
          kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\r\n",
        b"CLIENT_ERROR bad command line format\r\n",
        b"STORED\r\nCLIENT_ERROR bad command line format\r\n",
    ),
    (
        "memcached keeps the low 32 bits of a value's length, and then takes the value for commands",
        b"set d2 0 0 4294967297\r\nx\r\n",
        b"STORED\r\n",
        b"CLIENT_ERROR bad command line format\r\nERROR\r\n",
    ),
    (
        "memcached keeps the low 32 bits of an expiry time, so that a date after 2038 is in the past",
        b"set d3 0 2147483648 1\r\nx\r\nget d3\r\n",
        b"STORED\r\nEND\r\n",
        b"STORED\r\nVALUE d3 0 1\r\nx\r\nEND\r\n",
    ),
    (
        "a value that is too large is refused when it is announced; memcached answers when all of it has come",
        b"set d4 0 0 2147483645\r\nxx\r\n",
        b"",
        b"SERVER_ERROR object too large for cache\r\n",
    ),
    (
        "a client that stops in the middle of a request gets the replies to what it asked before; memcached loses some",
        b"delete d5\r\nset d5 0 0 5\r\nxx",
        b"",
        b"NOT_FOUND\r\n",
    ),
    (
        "a stored number has no minus sign, not even before a zero",
        b"set d7 0 0 2\r\n-0\r\nincr d7 1\r\n",
        b"STORED\r\n1\r\n",
        b"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    (
        "a number ends at a zero byte for memcached, because that is how its language ends text",
        b"set d6 0 0 2\r\n1\0\r\nincr d6 1\r\n",
        b"STORED\r\n2\r\n",
        b"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    (
        "the binary protocol, which memcached recognises by its first byte, is not spoken here",
        b"\x80\r\n",
        b"",
        b"ERROR\r\n",
    ),
    (
        "the memory is the configuration's business and not a client's, unless adminCommands lets it ask",
        b"cache_memlimit 64\r\n",
        b"OK\r\n",
        b"ERROR\r\n",
    ),
    ("there are no certificates that a client could have reloaded", b"refresh_certs\r\n", b"Error TLS not enabled\r\n", b"ERROR\r\n"),
    (
        "the flag E, by which a client sets the CAS, came into memcached's protocol after 1.6.18",
        b"ms d8 1 E77 c\r\nx\r\nmg d8 c\r\nmd d8 E78 C77 I\r\nmg d8 c\r\nma d8 E5\r\n",
        b"CLIENT_ERROR invalid flag\r\nEN\r\nCLIENT_ERROR invalid or duplicate flag\r\nEN\r\n\
          CLIENT_ERROR invalid or duplicate flag\r\n",
        b"HD c77\r\nHD c77\r\nHD\r\nHD c78 X W\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    (
        "an item that is made over already has no time left; memcached counts below zero, in 32 bits",
        b"mg d10 N-1 t\r\nmg d10\r\n",
        b"HD t4294967235 W\r\nEN\r\n",
        b"HD t0 W\r\nEN\r\n",
    ),
    (
        "counting changes neither that an item is stale nor who renews it; in memcached it does where the number grows longer",
        b"ms d11 1\r\n9\r\nmd d11 I\r\nma d11 v\r\nmg d11\r\n",
        b"HD\r\nHD\r\nVA 2\r\n10\r\nHD\r\n",
        b"HD\r\nHD\r\nVA 2\r\n10\r\nHD X W\r\n",
    ),
    (
        "a key is given back as it was sent; memcached remembers with the item that it once came in base64",
        b"ms ZDk= 1 b\r\nx\r\nmg d9 k\r\n",
        b"HD\r\nHD kZDk= b\r\n",
        b"HD\r\nHD kd9\r\n",
    ),
    (
        "memcached skips what is not base64 in a key that should be",
        b"mg Zm9-v b\r\n",
        b"EN\r\n",
        b"CLIENT_ERROR error decoding key\r\n",
    ),
    (
        "memcached's own inner life: what its logger tells of that is not here",
        b"watch sysevents\r\n",
        b"OK\r\n",
        b"ERROR\r\n",
    ),
    (
        "keys are listed by lru_crawler metadump, all of them; cachedump goes by memcached's slabs",
        b"stats cachedump 2 10\r\n",
        b"END\r\n",
        b"ERROR\r\n",
    ),
    (
        "sizes are not counted, because that would cost every store",
        b"stats sizes_enable\r\n",
        b"STAT sizes_status enabled\r\n",
        b"STAT sizes_status error\r\nSTAT sizes_error sizes are not counted here\r\nEND\r\n",
    ),
    ("memcached's own inner life: its crawler", b"lru_crawler crawl all\r\n", b"OK\r\n", b"ERROR\r\n"),
    ("memcached's own inner life: its slabs", b"slabs automove 0\r\n", b"OK\r\n", b"ERROR\r\n"),
    ("memcached's own inner life: its LRU", b"lru temp_ttl -1\r\n", b"OK\r\n", b"ERROR\r\n"),
    ("statistics by key prefix are not kept", b"stats detail off\r\n", b"OK\r\n", b"ERROR\r\n"),
];

#[test]
fn what_differs_is_listed_with_its_reason() -> Outcome {
    let (memcached, node) = (Memcached::start(&[])?, Node::start("")?);
    for (reason, request, theirs, ours) in DIFFERENCES {
        for (name, address, expected) in [("memcached", memcached.address, theirs), ("cache-node", node.address, ours)]
        {
            let answer = exchange(address, &[request])?;
            ensure!(answer == *expected, "{reason}: {name} answers {}", answer.escape_ascii());
        }
    }
    Ok(())
}

/// What differs too, and cannot be on the list because the clock goes on: `me` tells the time that an item has left, and
/// memcached the same number below zero, since it takes the deadline from the present.
#[test]
fn the_time_that_me_tells_is_what_is_left() -> Outcome {
    let (memcached, node) = (Memcached::start(&[])?, Node::start("")?);
    for (name, address, range) in
        [("memcached", memcached.address, -1000..=-900), ("cache-node", node.address, 900..=1000)]
    {
        let answer = String::from_utf8(exchange(address, &[b"set t 0 1000 1\r\nx\r\nme t\r\n"])?)?;
        let time = answer.split_whitespace().find_map(|word| word.strip_prefix("exp="));
        let time: i64 = time.ok_or_else(|| Failure::new(format!("{name} answers {answer}")))?.parse()?;
        ensure!(range.contains(&time), "{name} answers {answer}");
    }
    Ok(())
}

/// Sequences that a generator would rarely come upon.
#[test]
fn odd_sequences_are_answered_alike() -> Outcome {
    let long = "k".repeat(LONG_KEY);
    let fits = "k".repeat(LONG_KEY - 1);
    let odd = [
        format!("get {long}\r\nmn\r\n"),
        format!("set {fits} 0 0 1\r\nx\r\nget {fits}\r\n"),
        format!("set {long} 0 0 1\r\nx\r\ndelete {long}\r\ntouch {long} 0\r\nincr {long} 1\r\n"),
        format!("mn\r\nget a {long} b\r\nmn\r\n"),
        format!("gat 0 {long}\r\ngats 0\r\ngat\r\ngat x a\r\n"),
        format!("set a 0 0 2000000\r\n{}\r\nmn\r\n", "x".repeat(2_000_000)),
        format!("set a 0 0 2000000 noreply\r\n{}\r\nmn\r\n", "x".repeat(2_000_000)),
        format!("{}\r\nmn\r\n", "x".repeat(2000)),
        format!("get {}\r\nmn\r\n", "a ".repeat(5000)),
        format!("{}get a\r\n", " ".repeat(99)),
        "\r\n\n \r\n  \n\r\r\nmn\r\n".to_owned(),
        "set n 0 0 2\r\n 9\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 4\r\n9 x \r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 22\r\n0000000000000000000009\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 20\r\n18446744073709551615\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 21\r\n18446744073709551616 \r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 3\r\n100\r\ndecr n 1\r\nget n\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 0\r\n\r\nincr n 1\r\nset n 0 0 2\r\n-1\r\nincr n 1\r\nset n 0 0 2\r\n+1\r\nincr n 1\r\n".to_owned(),
        "set n 0 0 1\r\n9\r\nincr n 1 noreply\r\nget n\r\nincr n -1\r\nincr n +1\r\nincr n -0\r\nincr n 1x\r\nincr n\r\n".to_owned(),
        "set n 0 0 4\r\n1\t2 \r\nincr n 1\r\nget n\r\n".to_owned(),
        "delete a 0\r\ndelete a 1\r\ndelete a x noreply\r\ndelete a 0 noreply\r\ndelete a 0 0 0\r\ndelete\r\n"
            .to_owned(),
        "flush_all -1\r\nflush_all x\r\nflush_all 0 noreply x\r\nflush_all noreply\r\nflush_all x noreply\r\n"
            .to_owned(),
        "touch a noreply\r\ntouch a\r\ntouch a 0 noreply x\r\nverbosity\r\nverbosity x\r\nverbosity 0 noreply\r\n"
            .to_owned(),
        "set a 0 0 1 foo\r\nx\r\nset a 0 0 1 noreply foo\r\nx\r\nset a -1 0 1\r\nx\r\nget a\r\n".to_owned(),
        "set a 4294967296 0 1\r\nx\r\nget a\r\nset a 99999999999999999999 0 1\r\nx\r\n".to_owned(),
        "cas a 0 0 1 x\r\nx\r\ncas a 0 0 1\r\nx\r\ncas a 0 0 1 1 noreply\r\nx\r\nmn\r\n".to_owned(),
        "set a 0 0 3\nabc\r\nget a\nmn\nset a 0 0 3\r\nabc\n\nmn\r\n".to_owned(),
        "get a\0b\r\n\0\r\nmn\r\nset a\0 0 0 1\r\nx\r\n".to_owned(),
        "quit x\r\nmn\r\n".to_owned(),
        "mg miss k O1 v\r\nmg miss k b\r\nmg bWlzcw== k b\r\nme none\r\nme\r\nmn\r\nmn q\r\n".to_owned(),
        "ms a 1 c F5 k O9\r\nx\r\nmg a s v c f h k O7 q\r\nmg a\r\nmg a h\r\nmg a u h\r\nmg a t\r\n".to_owned(),
        "mg a x\r\nmg a v v\r\nmg a T\r\nmg a Tx\r\nmg a Mxx\r\nmg a Pfoo Lbar k\r\nmg a \u{ff}\r\n".to_owned(),
        format!("mg a O{0}\r\nmg zz O{0}\r\nms a 1 O{0}\r\nx\r\nmd a O{0}\r\nmd zz O{0}\r\n", "o".repeat(40)),
        format!("mg {long}\r\nms {long} 1\r\nx\r\nmd {long}\r\nma {long}\r\nme {long}\r\n"),
        format!("mg a{0}\r\nms a 1{0}\r\nmd a{0}\r\nma a{0}\r\n", " v".repeat(20)),
        format!("mg a {}\r\n", "c f h k s v u q O1 P L t b F1 C1 J1"),
        "ms b S1\r\nx\r\nms b 1 Fx\r\nx\r\nms b -1\r\nms b 1 b\r\nx\r\nms b 1 S5\r\nx\r\nms b x\r\nms b\r\n".to_owned(),
        "ms b 1 ME\r\nx\r\nms b 1 ME\r\nx\r\nms b 1 MX\r\nx\r\nms b 1 MA k\r\ny\r\nms b 1 MR q\r\nz\r\n".to_owned(),
        "ms nn 1 MR q\r\nx\r\nms nn 1 MA\r\nx\r\nms nn 1 C1\r\nx\r\nms b 1 C1 c\r\nx\r\nms b 1 MP C1\r\nx\r\n".to_owned(),
        "ms b 2 q\r\nxyz\r\nms Zm9v 1 b k\r\nx\r\nmg Zm9v b k v\r\nme Zm9 b\r\nms b 0 q k\r\n\r\nmg b v q\r\n".to_owned(),
        format!("ms b 2000000 q\r\n{}\r\nmn\r\n", "x".repeat(2_000_000)),
        "md b k O1 q\r\nmd b k O1\r\nmd b x\r\nmd b C1\r\nms b 1\r\nx\r\nmd b C99999\r\nmd b q\r\nmd b q\r\n".to_owned(),
        "ms n 1\r\n5\r\nma n\r\nma n v\r\nma n v D10 t k O3\r\nma n MD D100 v\r\nma n M-\r\nma n MX\r\nma n q\r\n".to_owned(),
        "ma n9 q v\r\nma n9 q k O1\r\nma n9 N0 J7 v\r\nma n9 v t\r\nma n9 C99999 v\r\nma n9 Dx\r\nma n9 M\r\nma n9 q\r\n".to_owned(),
        "ms n 1\r\nx\r\nma n\r\nma n q\r\nmg n T0 t\r\nms n 1 T-1\r\nx\r\nmg n v\r\nmg\r\nms\r\nmd\r\nma\r\n".to_owned(),
        "mg v N1000 t c v\r\nmg v N1000 t c v k O1\r\nmg v\r\nmg v h l u\r\nms v 1\r\nx\r\nmg v v\r\nmg v N1000 q k\r\n".to_owned(),
        "mg w t N1000 T2000\r\nmg w t\r\nmg w2 N1000 t T0 t\r\nmg w3 N0 t\r\nmg w4 T2000\r\nmg w5 N1000 q v s f h l\r\nmg w5 q k\r\n".to_owned(),
        "ms r 1 T1000\r\nx\r\nmg r R500 t\r\nmg r R5000 t v\r\nmg r R5000\r\nmg r\r\nms r 1 T1000\r\ny\r\nmg r T9000 R5000\r\n".to_owned(),
        "ms r2 1 T1000\r\nx\r\nmg r2 R5000 T9000\r\nms r2 1\r\ny\r\nmg r2 R5000\r\nmg r2 R0\r\nmg r2 R-1\r\nmg r2 R\r\nmg r2 Rx\r\n".to_owned(),
        "ms i 1\r\nx\r\nmd i I\r\nmg i v\r\nmg i v\r\nget i\r\nmd i I T1000\r\nmg i t v\r\nmd i I T0 q\r\nmg i t\r\ntouch i 0\r\nmg i\r\n".to_owned(),
        "ms i 1\r\nx\r\nmd i I\r\nadd i 0 0 1\r\ny\r\nappend i 0 0 1\r\nz\r\nmg i v\r\nmd i I C1\r\nmg i\r\nmd none I\r\nmd i I T-1\r\nmg i\r\n".to_owned(),
        "ms j 1\r\nx\r\nms j 1 I C1\r\ny\r\nmg j v\r\nmg j\r\nms j 1 I C1\r\nz\r\nmg j v\r\nms j 1 I C99999999\r\nz\r\nms j 1 I\r\nq\r\nmg j v\r\n".to_owned(),
        "ms f 1 MA C0\r\nx\r\nms f 1\r\nx\r\nms f 1 MA C0\r\ny\r\nms f 1 C0\r\nx\r\nms f 1 C0 I\r\nx\r\nmd f C0\r\nms f 1\r\n5\r\nma f C0 v\r\n".to_owned(),
        "ms a 1 h t s f l v c k O3 R30 N30\r\nx\r\nmd a h t s f l v c k O3 N30 R30\r\nma none l I R30 k\r\nmg none I l k\r\n".to_owned(),
        "verbosity noreply\r\nverbosity 1 2\r\nverbosity 1 2 3\r\nverbosity 1 noreply\r\nshutdown x\r\ncache_memlimit\r\ncache_memlimit x\r\n".to_owned(),
        "watch nonsense\r\nconfig get cluster\r\nconfig\r\nlru_crawler\r\nstats sizes\r\nmn\r\n".to_owned(),
        "shutdown\r\nbget a\r\nmn x y\r\nstats nonsense\r\nstats reset\r\nstats reset x\r\nmx\r\nm\r\n".to_owned(),
    ];
    for (name, mode) in MODES {
        let (memcached, node) = (Memcached::start(&[])?, Node::start(mode)?);
        for sequence in &odd {
            let bytes = sequence.as_bytes();
            // Whole, and cut where it hurts: after each of its first bytes.
            let mut cuts: Vec<Vec<&[u8]>> = vec![vec![bytes]];
            cuts.extend((1..bytes.len().min(60)).step_by(7).map(|at| vec![&bytes[..at], &bytes[at..]]));
            for pieces in cuts {
                compare(memcached.address, node.address, &[pieces.clone(), pieces])
                    .map_err(|failure| failure.while_doing(name))?;
            }
        }
    }
    Ok(())
}

#[test]
fn generated_sequences_are_answered_alike() -> Outcome {
    let number = |name: &str, default| env::var(name).map_or(Ok(default), |text| text.parse::<u64>());
    let (count, seed) = (number("GANNET_SEQUENCES", SEQUENCES)?, number("GANNET_SEED", SEED)?);
    let run = |(name, mode): (&str, &str)| -> Outcome {
        let (memcached, node) = (Memcached::start(&["-m", "256"])?, Node::start(&format!("{mode}memory: 256Mi\n"))?);
        let mut servers = [Server::at(memcached.address)?, Server::at(node.address)?];
        for sequence in seed..seed + count {
            run_sequence(&mut servers, sequence)
                .map_err(|failure| failure.while_doing(format!("{name}, GANNET_SEED={sequence} GANNET_SEQUENCES=1")))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let runs = MODES.map(|mode| scope.spawn(move || run(mode).map_err(|failure| failure.to_string())));
        runs.into_iter().try_for_each(|run| match run.join() {
            Ok(result) => result.map_err(Failure::new),
            Err(_) => Err(Failure::new("a run panicked")),
        })
    })
}

/// A server, and a client that asks it for CAS values.
struct Server {
    address: SocketAddr,
    client: Client,
}

impl Server {
    fn at(address: SocketAddr) -> Outcome<Server> {
        Ok(Server { address, client: Client::connect(address)? })
    }
}

/// Sends each server the two rounds of one sequence. `[0]` and `[1]` are the rounds of both; a round's CAS values are
/// what the server itself gave out before.
fn run_sequence(servers: &mut [Server; 2], seed: u64) -> Outcome {
    for round in 0..2 {
        let mut answers = Vec::new();
        let mut sent = Vec::new();
        for Server { address, client } in &mut *servers {
            // Nothing is stored under the sequence's keys before the first round.
            let tokens = if round == 0 { [(); 4].map(|()| "1".to_owned()) } else { tokens(client, seed)? };
            // The same dice for both, so that the sequences differ in nothing but CAS values.
            let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(round));
            let sequence = generate(&mut dice, seed, &tokens);
            let pieces = cut(&mut dice, &sequence);
            answers.push(comparable(&exchange(*address, &pieces)?, Exactness::Numbers));
            sent = sequence;
        }
        let is_less = ends_in_a_request(&sent) && answers[1].starts_with(&answers[0]);
        ensure!(answers[0] == answers[1] || is_less, "{}", difference(&sent, &answers[0], &answers[1]));
    }
    Ok(())
}

/// Whether a sequence ends in the middle of a request. memcached then loses replies that it owes; see [`DIFFERENCES`].
fn ends_in_a_request(sequence: &[u8]) -> bool {
    let mut at = 0;
    loop {
        match memcache::parse(sequence, at, 0, Limits { max_value: 1 << 20 }) {
            Step::Command { next, .. } => at = next,
            Step::Partial { .. } => return at != sequence.len(),
            Step::TooLong => return false,
        }
    }
}

/// Both answers from shortly before where they part.
fn difference(sent: &[u8], theirs: &[u8], ours: &[u8]) -> String {
    let at = theirs.iter().zip(ours).take_while(|(their, our)| their == our).count();
    let from = |bytes: &[u8]| bytes[at.saturating_sub(100)..bytes.len().min(at + 200)].escape_ascii().to_string();
    format!(
        "to {}\nmemcached answers  {}\nbut the node       {}",
        sent[..sent.len().min(3000)].escape_ascii(),
        from(theirs),
        from(ours)
    )
}

fn compare(theirs: SocketAddr, ours: SocketAddr, pieces: &[Vec<&[u8]>; 2]) -> Outcome {
    let their_answer = comparable(&exchange(theirs, &pieces[0])?, Exactness::Bytes);
    let our_answer = comparable(&exchange(ours, &pieces[1])?, Exactness::Bytes);
    ensure!(their_answer == our_answer, "{}", difference(&pieces[0].concat(), &their_answer, &our_answer));
    Ok(())
}

/// The CAS values of the sequence's keys at one server, in the order of the keys; 1 for a key that is not there.
fn tokens(client: &mut Client, seed: u64) -> Outcome<[String; 4]> {
    let keys = keys(seed);
    let mut found = HashMap::new();
    for key in &keys {
        client.send(format!("gets {key}\r\n").as_bytes())?;
        loop {
            let line = client.line()?;
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["END"] => break,
                ["VALUE", key, _, length, cas] => {
                    // Of one length at both servers, so that a sequence that is cut off is cut off at the same place.
                    found.insert(key.to_owned(), format!("{cas:0>CAS_DIGITS$}"));
                    let length: usize = length.parse()?;
                    client.skip(length + 2)?;
                }
                _ => return Err(Failure::new(format!("{key} is answered with {line}"))),
            }
        }
    }
    Ok(keys.map(|key| found.remove(&key).unwrap_or_else(|| "1".to_owned())))
}
