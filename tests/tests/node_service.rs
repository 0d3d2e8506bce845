//! The commands that are about the node and not about an item: what is watched, what is told, and what may be changed.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Node, argument, eventually, folder};

const VALUE: usize = 4000;

fn in_each_mode(lines: &str, test: impl Fn(&mut Node) -> Outcome) -> Outcome {
    for (name, mode) in MODES {
        let mut node = Node::start(&format!("{mode}{lines}"))?;
        test(&mut node).map_err(|failure| failure.while_doing(name))?;
    }
    Ok(())
}

fn watcher(node: &Node, streams: &str) -> Outcome<Client> {
    let mut client = node.client()?;
    client.expect(format!("watch{streams}\r\n").as_bytes(), b"OK\r\n")?;
    Ok(client)
}

/// The next line of a watcher that has this word.
fn told(watcher: &mut Client, word: &str) -> Outcome<String> {
    loop {
        let line = watcher.line()?;
        if line.split(' ').any(|found| found == word) {
            return Ok(line);
        }
    }
}

/// Stores until the node has evicted.
fn evict(node: &Node) -> Outcome {
    let mut client = node.client()?;
    let value = vec![b'x'; VALUE];
    let mut number = 0;
    eventually(|| {
        for _ in 0..1000 {
            number += 1;
            client.send(format!("set evict/{number} 0 0 {VALUE} noreply\r\n").as_bytes())?;
            client.send(&value)?;
            client.send(b"\r\n")?;
        }
        client.expect(b"mn\r\n", b"MN\r\n")?;
        ensure!(node.metric("gannet_evicted_items_total")? > 0.0, "nothing is evicted");
        Ok(())
    })
}

#[test]
fn watchers_are_told_of_evictions() -> Outcome {
    in_each_mode("memory: 8Mi\n", |node| {
        let mut watcher = watcher(node, " evictions")?;
        evict(node)?;
        let line = told(&mut watcher, "type=eviction")?;
        ensure!(line.starts_with("ts=") && line.contains(" key=evict%2F"), "{line}");
        ensure!(line.ends_with(&format!(" ttl=-1 size={VALUE}")), "{line}");
        Ok(())
    })
}

#[test]
fn watchers_are_told_of_what_is_looked_up_and_stored() -> Outcome {
    in_each_mode("", |node| {
        let (mut fetchers, mut mutations) = (watcher(node, "")?, watcher(node, " mutations evictions")?);
        let mut client = node.client()?;
        client.expect(b"set a 0 0 2 noreply\r\nxy\r\nget a b\r\n", b"VALUE a 0 2\r\nxy\r\nEND\r\n")?;
        client.expect(b"add a 0 0 1\r\nx\r\n", b"NOT_STORED\r\n")?;
        client.expect(b"cas a 0 0 1 0\r\nx\r\nms c 1 q\r\nx\r\nmg YQ== b\r\n", b"EXISTS\r\nHD\r\n")?;
        for expected in ["key=a status=found size=2", "key=b status=not_found size=0", "key=a status=found size=2"] {
            let line = told(&mut fetchers, "type=item_get")?;
            ensure!(line.ends_with(expected), "{line} instead of {expected}");
        }
        for expected in [
            "key=a status=stored cmd=set size=2",
            "key=a status=not_stored cmd=add size=1",
            "key=a status=exists cmd=cas size=1",
            "key=c status=stored cmd=ms size=1",
        ] {
            let line = told(&mut mutations, "type=item_store")?;
            ensure!(line.ends_with(expected), "{line} instead of {expected}");
        }
        Ok(())
    })
}

#[test]
fn watchers_are_told_of_connections() -> Outcome {
    in_each_mode("", |node| {
        let mut watcher = watcher(node, " connevents")?;
        let client = node.client()?;
        let port = format!("rport={}", client.stream().local_addr()?.port());
        let line = told(&mut watcher, &port)?;
        ensure!(line.contains("type=conn_new rip=127.0.0.1"), "{line}");
        drop(client);
        let line = told(&mut watcher, &port)?;
        ensure!(line.contains("type=conn_close") && line.ends_with("reason=normal"), "{line}");
        Ok(())
    })
}

#[test]
fn a_watcher_that_does_not_read_loses_lines_and_is_told_how_many() -> Outcome {
    let node = Node::start("")?;
    let mut slow = watcher(&node, " fetchers")?;
    let mut client = node.client()?;
    let gets = format!("{}mn\r\n", format!("get {}\r\n", "k".repeat(250)).repeat(1000));
    let answers = format!("{}MN\r\n", "END\r\n".repeat(1000));
    eventually(|| {
        client.expect(gets.as_bytes(), answers.as_bytes())?;
        let stats = client.statistics("stats\r\n")?;
        let count = |name: &str| stat(&stats, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        ensure!(count("log_watcher_skipped") > 0, "nothing was skipped");
        ensure!(count("log_watchers") == 1, "{stats:?}");
        Ok(())
    })?;
    // It is told once there is room again, before the next line.
    let (mut ended, mut lines) = (None, 0);
    while ended.is_none() {
        client.expect(b"get after\r\n", b"END\r\n")?;
        for _ in 0..2000 {
            let line = slow.line()?;
            lines += 1;
            if line.starts_with("[skipped: ") {
                ended = Some(line);
                break;
            }
            if line.contains("key=after") {
                break;
            }
        }
    }
    ensure!(ended.is_some_and(|line| line.ends_with(']')) && lines > 1, "{lines} lines");
    Ok(())
}

#[test]
fn watchers_are_few_and_leave_nothing_behind() -> Outcome {
    const MOST: usize = 20;
    in_each_mode("", |node| {
        let watchers: Vec<Client> = (0..MOST).map(|_| watcher(node, " fetchers")).collect::<Outcome<_>>()?;
        let mut client = node.client()?;
        client.expect(b"watch\r\nmn\r\n", b"WATCHER_TOO_MANY log watcher limit reached\r\nMN\r\n")?;
        client.expect(b"watch nonsense\r\nmn\r\n", b"ERROR\r\nMN\r\n")?;
        node.wait_for_metric("gannet_connections", |open| open == MOST as f64 + 1.0)?;
        let stats = client.statistics("stats conns\r\n")?;
        let watching = stats.iter().filter(|(name, value)| name.ends_with(":state") && value == "conn_watch");
        ensure!(watching.count() == MOST, "{stats:?}");
        drop(watchers);
        node.wait_for_metric("gannet_connections", |open| open == 1.0)?;
        watcher(node, "").map(drop)
    })
}

#[test]
fn connections_are_listed() -> Outcome {
    in_each_mode("", |node| {
        let mut clients: Vec<Client> = (0..5).map(|_| node.client()).collect::<Outcome<_>>()?;
        let mut expected = BTreeSet::new();
        for client in &mut clients {
            client.expect(b"mn\r\n", b"MN\r\n")?;
            expected.insert(format!("tcp:{}", client.stream().local_addr()?));
        }
        let stats = clients[0].statistics("stats conns\r\n")?;
        let of = |name: &str| -> BTreeSet<String> {
            let found = stats.iter().filter(|(stat, _)| stat.ends_with(&format!(":{name}")));
            found.map(|(_, value)| value.clone()).collect()
        };
        ensure!(of("addr") == expected, "{stats:?}");
        ensure!(of("listen_addr") == BTreeSet::from([format!("tcp:{}", node.address)]), "{stats:?}");
        ensure!(of("state") == BTreeSet::from(["conn_read".to_owned()]), "{stats:?}");
        ensure!(of("secs_since_last_cmd").iter().all(|text| text.parse::<u64>().is_ok()), "{stats:?}");
        Ok(())
    })
}

#[test]
fn clients_change_nothing_unless_they_may() -> Outcome {
    in_each_mode("drainDelay: 0s\n", |node| {
        let mut client = node.client()?;
        client.expect(b"shutdown\r\n", b"ERROR: shutdown not enabled\r\n")?;
        client.expect(b"shutdown graceful\r\n", b"ERROR: shutdown not enabled\r\n")?;
        client.expect(b"cache_memlimit 64\r\n", b"ERROR\r\n")?;
        client.expect(b"verbosity 3\r\nmn\r\n", b"OK\r\nMN\r\n")?;
        let stats = client.statistics("stats settings\r\n")?;
        ensure!(stat(&stats, "shutdown_command") == Some("no"), "{stats:?}");
        node.signal("TERM")?;
        ensure!(node.wait()?.success(), "the node fails");
        ensure!(node.wait_for_log("a session ended").is_err(), "verbosity changed the log");
        Ok(())
    })
}

#[test]
fn clients_that_may_change_the_log_and_the_end() -> Outcome {
    in_each_mode("adminCommands: true\ndrainDelay: 0s\nmemory: 64Mi\n", |node| {
        let mut client = node.client()?;
        client.expect(b"verbosity 2\r\n", b"OK\r\n")?;
        drop(node.client()?);
        node.wait_for_log("a session ended")?;
        client.expect(b"cache_memlimit 64\r\n", b"OK\r\n")?;
        client.expect(b"cache_memlimit 7\r\n", b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n")?;
        let failed = b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n";
        client.expect(b"cache_memlimit 65\r\n", failed)?;
        client.expect(b"cache_memlimit 64 noreply\r\ncache_memlimit x\r\n", b"ERROR\r\n")?;
        client.expect(b"shutdown now\r\n", b"CLIENT_ERROR invalid shutdown mode\r\n")?;
        client.send(b"mn\r\nshutdown graceful\r\nmn\r\n")?;
        ensure!(client.rest()? == b"MN\r\n", "the connection does not end with the node");
        let status = node.wait()?;
        ensure!(status.success(), "the node ends with {status}");
        Ok(())
    })
}

#[test]
fn the_list_of_nodes_is_told_as_it_is_now() -> Outcome {
    let folder = folder()?;
    let file = folder.join("nodes");
    let told = in_each_mode(&format!("discovery: {}\n", argument(&file)), |node| {
        let mut client = node.client()?;
        let none = b"SERVER_ERROR the list of nodes cannot be read\r\n";
        client.expect(b"config get cluster\r\nconfig get other\r\n", &[&none[..], b"ERROR\r\n"].concat())?;
        for (text, answer) in [
            ("1\na|10.0.0.1|11211\n", "CONFIG cluster 0 19\r\n1\na|10.0.0.1|11211\n\r\nEND\r\n"),
            ("2\na||11211\nb||11212\n", "CONFIG cluster 0 20\r\n2\na||11211 b||11212\n\r\nEND\r\n"),
        ] {
            fs::write(&file, text)?;
            eventually(|| node.client()?.expect(b"config get cluster\r\n", answer.as_bytes()))?;
        }
        // What makes no sense is said in the log, and the last good list stays.
        fs::write(&file, "nonsense\n")?;
        eventually(|| {
            node.client()?.expect(b"config get cluster\r\n", b"CONFIG cluster 0 20\r\n")?;
            Ok(())
        })?;
        fs::remove_file(&file)?;
        Ok(())
    });
    fs::remove_dir_all(&folder)?;
    told?;
    Node::start("")?.client()?.expect(b"config get cluster\r\n", b"ERROR\r\n")
}

#[test]
fn a_dump_names_every_item_once() -> Outcome {
    const ITEMS: usize = 5000;
    in_each_mode("", |node| {
        let mut client = node.client()?;
        for number in 0..ITEMS {
            client.send(format!("set key/{number} 0 {} 5 noreply\r\nvalue\r\n", number % 2 * 100).as_bytes())?;
        }
        client.send(b"lru_crawler metadump all\r\n")?;
        let mut keys = BTreeSet::new();
        loop {
            let line = client.line()?;
            if line == "END" {
                break;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let key = words[0].strip_prefix("key=key%2F").ok_or_else(|| Failure::new(line.clone()))?;
            ensure!(words[1] == "exp=-1" || words[1].starts_with("exp=1"), "{line}");
            ensure!(keys.insert(key.to_owned()), "{key} comes twice");
        }
        ensure!(keys.len() == ITEMS, "{} of {ITEMS} items", keys.len());
        client.expect(b"lru_crawler crawl all\r\n", b"ERROR\r\n")
    })
}

/// The program that comes with Debian's memcached.
#[test]
fn memcached_tool_understands_the_node() -> Outcome {
    const TOOL: &str = "/usr/share/memcached/scripts/memcached-tool";
    let node = Node::start("")?;
    node.client()?.expect(b"set a 5 0 1\r\nx\r\nset b 0 100 1\r\ny\r\n", b"STORED\r\nSTORED\r\n")?;
    for (mode, expected) in [
        ("display", "Item_Size"),
        ("stats", "curr_items"),
        ("settings", "item_size_max"),
        ("sizes", "disabled"),
        ("keys", "key=a exp=-1"),
        ("dump", "add a 5 0 1"),
    ] {
        let mut command = Command::new("perl");
        command.args([TOOL, &node.address.to_string(), mode]).stdin(Stdio::null());
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && text.contains(expected), "{mode}: {text}");
        ensure!(mode != "display" || text.lines().count() == 3, "a line for each TTL: {text}");
    }
    Ok(())
}

fn stat<'a>(stats: &'a [(String, String)], name: &str) -> Option<&'a str> {
    stats.iter().find(|(stat, _)| stat == name).map(|(_, value)| value.as_str())
}
