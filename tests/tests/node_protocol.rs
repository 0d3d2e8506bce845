//! What a client gets to see, in each way in which a node can divide its work.

use std::fmt::Write;
use std::thread;

use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Node, eventually, exchange};

/// Runs a test in each mode, side by side.
fn in_each_mode(lines: &str, test: impl Fn(&Node) -> Outcome + Sync) -> Outcome {
    let run = &|(name, mode): (&str, &str)| {
        let node = Node::start(&format!("{mode}{lines}"))?;
        test(&node).map_err(|failure| failure.while_doing(name))
    };
    thread::scope(|scope| {
        let runs = MODES.map(|mode| scope.spawn(move || run(mode).map_err(|failure| failure.to_string())));
        runs.into_iter().try_for_each(|run| match run.join() {
            Ok(result) => result.map_err(Failure::new),
            Err(_) => Err(Failure::new("the test panicked")),
        })
    })
}

#[test]
fn every_command_does_what_memcached_does() -> Outcome {
    in_each_mode("", |node| {
        let mut client = node.client()?;
        client.expect(b"get a\r\n", b"END\r\n")?;
        client.expect(b"set a 5 0 3\r\n007\r\n", b"STORED\r\n")?;
        client.expect(b"get a\r\n", b"VALUE a 5 3\r\n007\r\nEND\r\n")?;
        client.expect(b"add a 0 0 1\r\nx\r\n", b"NOT_STORED\r\n")?;
        client.expect(b"replace b 0 0 1\r\nx\r\n", b"NOT_STORED\r\n")?;
        client.expect(b"append a 9 9 1\r\n1\r\n", b"STORED\r\n")?;
        client.expect(b"prepend a 9 9 1\r\n1\r\n", b"STORED\r\n")?;
        client.expect(b"get a b\r\n", b"VALUE a 5 5\r\n10071\r\nEND\r\n")?;
        client.expect(b"incr a 9\r\n", b"10080\r\n")?;
        client.expect(b"decr a 9999\r\n", b"81\r\n")?;
        client.expect(b"get a\r\n", b"VALUE a 5 5\r\n81   \r\nEND\r\n")?;
        client.expect(b"incr b 1\r\n", b"NOT_FOUND\r\n")?;
        client.expect(b"touch a 100\r\n", b"TOUCHED\r\n")?;
        client.expect(b"touch b 100\r\n", b"NOT_FOUND\r\n")?;
        client.expect(b"gat 100 a b\r\n", b"VALUE a 5 5\r\n81   \r\nEND\r\n")?;
        client.send(b"gets a\r\n")?;
        let line = client.line()?;
        let cas: u64 = line.strip_prefix("VALUE a 5 5 ").unwrap_or_default().parse()?;
        client.expect_answer(b"81   \r\nEND\r\n")?;
        client.expect(format!("cas a 0 0 1 {}\r\nx\r\n", cas + 1).as_bytes(), b"EXISTS\r\n")?;
        client.expect(format!("cas a 0 0 1 {cas}\r\nx\r\n").as_bytes(), b"STORED\r\n")?;
        client.expect(format!("cas a 0 0 1 {cas}\r\nx\r\n").as_bytes(), b"EXISTS\r\n")?;
        client.expect(b"cas b 0 0 1 1\r\nx\r\n", b"NOT_FOUND\r\n")?;
        client.expect(b"delete a\r\n", b"DELETED\r\n")?;
        client.expect(b"delete a\r\n", b"NOT_FOUND\r\n")?;
        client.expect(b"set a 0 0 1\r\nx\r\nflush_all\r\nget a\r\n", b"STORED\r\nOK\r\nEND\r\n")?;
        client.expect(b"verbosity 1\r\n", b"OK\r\n")?;
        client.expect(b"mn\r\n", b"MN\r\n")?;
        client.send(b"version\r\n")?;
        ensure!(client.line()?.starts_with("VERSION "), "version answers something else");
        client.send(b"quit\r\n")?;
        ensure!(client.rest()?.is_empty(), "quit says something");
        Ok(())
    })
}

#[test]
fn one_client_renews_what_is_stale_or_missing() -> Outcome {
    in_each_mode("", |node| {
        let (mut first, mut second) = (node.client()?, node.client()?);
        first.expect(b"mg a N1000 v\r\n", b"VA 0 W\r\n\r\n")?;
        second.expect(b"mg a N1000 v\r\n", b"VA 0 Z\r\n\r\n")?;
        first.expect(b"ms a 3 T1000\r\nnew\r\n", b"HD\r\n")?;
        second.expect(b"mg a v R2\r\n", b"VA 3\r\nnew\r\n")?;
        // Soon over: one client is told, and the others serve what there is.
        first.expect(b"mg a v R2000\r\n", b"VA 3 W\r\nnew\r\n")?;
        second.expect(b"mg a v R2000\r\n", b"VA 3 Z\r\nnew\r\n")?;
        first.expect(b"md a I T3000\r\n", b"HD\r\n")?;
        second.expect(b"mg a v\r\n", b"VA 3 X W\r\nnew\r\n")?;
        first.expect(b"mg a v\r\n", b"VA 3 Z X\r\nnew\r\n")?;
        first.expect(b"get a\r\n", b"VALUE a 0 3\r\nnew\r\nEND\r\n")?;
        first.send(b"me a\r\n")?;
        let line = first.line()?;
        ensure!(line.starts_with("ME a exp=") && line.ends_with(" fetch=yes size=4 stale=yes won=yes"), "{line}");
        // Who comes with an older CAS stores, but what he stores is out of date, too.
        second.expect(b"ms a 3 E100 c\r\nnow\r\nms a 3 C99 I c E101\r\nold\r\n", b"HD c100\r\nHD c101\r\n")?;
        first.expect(b"mg a v c\r\n", b"VA 3 c101 X W\r\nold\r\n")?;
        second.expect(b"ms a 3 C100\r\nnew\r\nms a 3 C101\r\nnew\r\nmg a\r\n", b"EX\r\nHD\r\nHD\r\n")
    })
}

#[test]
fn the_time_since_the_last_access_is_told() -> Outcome {
    in_each_mode("", |node| {
        let mut client = node.client()?;
        client.expect(
            b"set a 0 0 1\r\nx\r\nmg a h u\r\nmg a h\r\nmg a h\r\n",
            b"STORED\r\nHD h0\r\nHD h0\r\nHD h1\r\n",
        )?;
        let unused = |client: &mut Client, flags: &str| -> Outcome<u64> {
            client.send(format!("mg a {flags}\r\n").as_bytes())?;
            let line = client.line()?;
            Ok(line.strip_prefix("HD l").ok_or_else(|| Failure::new(line.clone()))?.parse()?)
        };
        eventually(|| {
            ensure!(unused(&mut client, "l u")? > 1, "no time passes");
            Ok(())
        })?;
        let (before, after) = (unused(&mut client, "l")?, unused(&mut client, "l")?);
        ensure!(before > 1 && after <= 1, "{before} seconds, and {after} after an access");
        Ok(())
    })
}

#[test]
fn noreply_is_silent() -> Outcome {
    in_each_mode("", |node| {
        let silent =
            b"set a 0 0 1 noreply\r\nx\r\nadd b 0 0 1 noreply\r\n1\r\nincr b 1 noreply\r\ntouch b 9 noreply\r\n\
            append a 0 0 1 noreply\r\ny\r\nreplace c 0 0 1 noreply\r\nz\r\nverbosity 0 noreply\r\n";
        let mut client = node.client()?;
        client
            .expect(&[silent, &b"get a b c\r\n"[..]].concat(), b"VALUE a 0 2\r\nxy\r\nVALUE b 0 1\r\n2\r\nEND\r\n")?;
        client.expect(b"delete a noreply\r\nflush_all noreply\r\nget a b\r\n", b"END\r\n")
    })
}

#[test]
fn items_expire_and_a_delayed_flush_comes_true() -> Outcome {
    in_each_mode("", |node| {
        let mut client = node.client()?;
        client.expect(b"set gone 0 -1 1\r\nx\r\nget gone\r\n", b"STORED\r\nEND\r\n")?;
        client.expect(b"set past 0 2592001 1\r\nx\r\nget past\r\n", b"STORED\r\nEND\r\n")?;
        client.expect(b"set later 0 100 1\r\nx\r\nget later\r\n", b"STORED\r\nVALUE later 0 1\r\nx\r\nEND\r\n")?;
        client.expect(b"set soon 0 2 1\r\nx\r\nget soon\r\n", b"STORED\r\nVALUE soon 0 1\r\nx\r\nEND\r\n")?;
        eventually_missing(&mut client, "soon")?;
        client.expect(b"get later\r\n", b"VALUE later 0 1\r\nx\r\nEND\r\n")?;
        client.expect(b"flush_all 2\r\nget later\r\n", b"OK\r\nVALUE later 0 1\r\nx\r\nEND\r\n")?;
        eventually_missing(&mut client, "later")
    })
}

fn eventually_missing(client: &mut Client, key: &str) -> Outcome {
    eventually(|| {
        client.send(format!("get {key}\r\n").as_bytes())?;
        let mut lines = 1;
        while client.line()? != "END" {
            lines += 1;
        }
        ensure!(lines == 1, "{key} is still there");
        Ok(())
    })
}

#[test]
fn a_pipeline_is_answered_in_order_and_in_full() -> Outcome {
    const REQUESTS: usize = 20_000;
    in_each_mode("", |node| {
        let (mut requests, mut answers) = (String::new(), String::new());
        for number in 0..REQUESTS {
            let key = number % 100;
            write!(requests, "set k{key} {number} 0 4\r\nv{key:03}\r\nget k{key}\r\nget none\r\n")?;
            write!(answers, "STORED\r\nVALUE k{key} {number} 4\r\nv{key:03}\r\nEND\r\nEND\r\n")?;
        }
        let answer = exchange(node.address, &[requests.as_bytes()])?;
        ensure!(answer == answers.as_bytes(), "{} bytes instead of {}", answer.len(), answers.len());
        Ok(())
    })
}

#[test]
fn a_pipeline_before_a_half_close_is_answered() -> Outcome {
    in_each_mode("", |node| {
        for pieces in [
            &[&b"set a 0 0 1\r\nx\r\nget a\r\nget a\r\n"[..]][..],
            &[b"set a 0 0 1\r\nx\r\nge", b"t a\r\nget a\r\n"],
            &[b"set a 0 0 1\r\nx\r\nget a\r\nget a\r\nget"],
        ] {
            let answer = exchange(node.address, pieces)?;
            let value = "VALUE a 0 1\r\nx\r\nEND\r\n";
            let expected = format!("STORED\r\n{value}{value}");
            ensure!(answer == expected.as_bytes(), "{} to {pieces:?}", answer.escape_ascii());
        }
        Ok(())
    })
}

#[test]
fn a_multi_get_of_many_large_values_comes_in_full() -> Outcome {
    const KEYS: usize = 60;
    const LENGTH: usize = 300_000;
    in_each_mode("memory: 64Mi\n", |node| {
        let mut client = node.client()?;
        let value = |key: usize| -> Vec<u8> { (0..LENGTH).map(|at| (at * 31 + key) as u8).collect() };
        let (mut get, mut expected) = (b"get".to_vec(), Vec::new());
        for key in 0..KEYS {
            let value = value(key);
            client.send(format!("set key{key} 1 0 {LENGTH}\r\n").as_bytes())?;
            client.send(&value)?;
            client.expect(b"\r\n", b"STORED\r\n")?;
            get.extend_from_slice(format!(" key{key}").as_bytes());
            expected.extend_from_slice(format!("VALUE key{key} 1 {LENGTH}\r\n").as_bytes());
            expected.extend_from_slice(&value);
            expected.extend_from_slice(b"\r\n");
        }
        get.extend_from_slice(b"\r\n");
        expected.extend_from_slice(b"END\r\n");
        client.expect(&get, &expected)
    })
}

#[test]
fn a_multi_get_longer_than_any_buffer_is_answered() -> Outcome {
    const KEYS: usize = 20_000;
    in_each_mode("", |node| {
        let mut client = node.client()?;
        client.expect(b"set k19999 0 0 1\r\nx\r\n", b"STORED\r\n")?;
        let mut get = String::from("get");
        (0..KEYS).try_for_each(|key| write!(get, " k{key}"))?;
        client.expect(format!("{get}\r\n").as_bytes(), b"VALUE k19999 0 1\r\nx\r\nEND\r\n")
    })
}

#[test]
fn values_up_to_the_limit_are_kept_byte_for_byte() -> Outcome {
    in_each_mode("maxItemSize: 2Mi\n", |node| {
        let mut client = node.client()?;
        for length in [0, 1, 100, 16_383, 16_384, 16_385, 65_536, 1 << 20, 2 << 20] {
            let value: Vec<u8> = (0..length).map(|at: usize| (at * 7 + (at >> 9)) as u8).collect();
            let request = [format!("set k 0 0 {length}\r\n").as_bytes(), &value, b"\r\n"].concat();
            client.expect(&request, b"STORED\r\n")?;
            let answer = [format!("VALUE k 0 {length}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
            client.expect(b"get k\r\n", &answer)?;
        }
        Ok(())
    })
}

#[test]
fn a_value_above_the_limit_is_swallowed_and_what_was_there_is_gone() -> Outcome {
    in_each_mode("maxItemSize: 1Mi\n", |node| {
        let mut client = node.client()?;
        let length = (1 << 20) + 1;
        let store =
            |verb: &str| [format!("{verb} k 0 0 {length}\r\n").as_bytes(), &vec![b'x'; length], b"\r\n"].concat();
        client.expect(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")?;
        client.expect(&store("add"), b"SERVER_ERROR object too large for cache\r\n")?;
        client.expect(b"get k\r\n", b"VALUE k 0 1\r\nx\r\nEND\r\n")?;
        client.expect(&store("set"), b"SERVER_ERROR object too large for cache\r\n")?;
        client.expect(b"get k\r\n", b"END\r\n")
    })
}

#[test]
fn the_connection_survives_garbage() -> Outcome {
    in_each_mode("", |node| {
        let mut client = node.client()?;
        for (request, answer) in [
            (&b"nonsense\r\n"[..], &b"ERROR\r\n"[..]),
            (b"\r\n", b"ERROR\r\n"),
            (b"get\r\n", b"ERROR\r\n"),
            (b"set a 0 0 1\r\nxyz\r\n", b"CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
            (b"set a 0 0 -1\r\n", b"CLIENT_ERROR bad command line format\r\n"),
            (b"incr a x\r\n", b"CLIENT_ERROR invalid numeric delta argument\r\n"),
            (b"\xff\xfe\x00\x01\r\n", b"ERROR\r\n"),
            (b"mn\r\n", b"MN\r\n"),
        ] {
            client.expect(request, answer)?;
        }
        Ok(())
    })
}

#[test]
fn a_line_that_does_not_end_ends_the_connection() -> Outcome {
    in_each_mode("", |node| {
        let mut client = node.client()?;
        client.send(&[b'x'; 4096])?;
        let answer = client
            .rest()
            .or_else(|failure| if failure.to_string().contains("reset") { Ok(Vec::new()) } else { Err(failure) })?;
        ensure!(answer.is_empty(), "{}", answer.escape_ascii());
        node.client()?.expect(b"mn\r\n", b"MN\r\n")
    })
}

#[test]
fn replies_never_reach_the_connection_that_has_the_slot_next() -> Outcome {
    in_each_mode("", |node| {
        let mut client = node.client()?;
        client.expect(b"set secret 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
        for _ in 0..300 {
            let mut leaver = node.client()?;
            leaver.send(&b"get secret\r\n".repeat(50))?;
            drop(leaver);
            node.client()?.expect(b"get other\r\n", b"END\r\n")?;
        }
        Ok(())
    })
}

#[test]
fn statistics_are_those_that_tools_look_for() -> Outcome {
    in_each_mode("", |node| {
        let mut client = node.client()?;
        client.expect(b"set a 0 0 1\r\nx\r\nget a\r\nget b\r\n", b"STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nEND\r\n")?;
        let stats = client.statistics("stats\r\n")?;
        for (name, value) in
            [("cmd_get", "2"), ("cmd_set", "1"), ("get_hits", "1"), ("get_misses", "1"), ("curr_items", "1")]
        {
            let found = stats.iter().find(|(stat, _)| stat == name).map(|(_, value)| value.as_str());
            ensure!(found == Some(value), "{name} is {found:?}");
        }
        ensure!(stats.iter().any(|(name, value)| name == "limit_maxbytes" && value == "67108864"), "{stats:?}");
        client.expect(b"stats reset\r\n", b"RESET\r\n")?;
        let stats = client.statistics("stats\r\n")?;
        ensure!(stats.iter().any(|(name, value)| name == "cmd_get" && value == "0"), "{stats:?}");
        for of in ["settings", "items", "slabs", "sizes", "conns"] {
            let stats = client.statistics(&format!("stats {of}\r\n"))?;
            ensure!(!stats.is_empty(), "stats {of} says nothing");
        }
        client.expect(b"stats nonsense\r\n", b"ERROR\r\n")
    })
}
