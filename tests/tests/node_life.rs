//! A node's life from outside: its configuration, its limits, its figures, its end.

use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Node, argument, eventually, folder, http, run_to_end};

#[test]
fn a_wrong_configuration_is_refused_with_file_line_and_field() -> Outcome {
    let file = folder()?.join("cache-node.yaml");
    for (text, words) in [
        ("version: 1\nworker: 2\n", &["worker", "line 2", "expected one of"][..]),
        ("version: 1\nworkers: 0\n", &["line 2", "workers: 0", "1 to 64"]),
        ("memory: 64MB\n", &["line 1", "64MB", "64Mi"]),
        ("version: 1\n\nlisten: here\n", &["line 3", "listen"]),
        ("version: 99\n", &["line 1", "version", "99"]),
        ("version: 1\nmemory: 4Mi\n", &["line 2", "memory: 4Mi", "8Mi"]),
    ] {
        fs::write(&file, text)?;
        let (status, log) = run_to_end(&["--config", argument(&file)])?;
        ensure!(status.code() == Some(1), "{text:?} ends with {status}");
        for word in words.iter().chain(&[argument(&file)]) {
            ensure!(log.contains(word), "{text:?} is refused without naming {word}: {log}");
        }
    }
    Ok(())
}

#[test]
fn wrong_arguments_are_refused_by_name() -> Outcome {
    for (arguments, words) in [
        (&["--workers", "0"][..], &["workers", "1 to 64"][..]),
        (&["--memory", "64MB"], &["--memory", "64Mi"]),
        (&["--memory", "1Mi"], &["memory", "8Mi"]),
        (&["--listen", "here"], &["--listen"]),
        (&["--config", "/nowhere/at-all"], &["/nowhere/at-all", "cannot be read"]),
        (&["--nonsense"], &["--nonsense"]),
    ] {
        let (status, log) = run_to_end(arguments)?;
        ensure!(!status.success(), "{arguments:?} is accepted");
        for word in words {
            ensure!(log.contains(word), "{arguments:?} is refused without naming {word}: {log}");
        }
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_named_with_its_option() -> Outcome {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    for option in ["--listen", "--health", "--admin"] {
        let (status, log) = run_to_end(&["--listen", "127.0.0.1:0", option, &address])?;
        // Clap refuses an option that is given twice.
        let (status, log) = if option == "--listen" { run_to_end(&[option, &address])? } else { (status, log) };
        ensure!(status.code() == Some(1), "{option} {address} ends with {status}");
        ensure!(log.contains(option) && log.contains(&address), "{log}");
    }
    Ok(())
}

#[test]
fn arguments_override_the_file() -> Outcome {
    let node = Node::start_with("memory: 64Mi\nworkers: 1\n", &["--memory", "32Mi", "--workers", "2"])?;
    let mut client = node.client()?;
    client.send(b"stats settings\r\n")?;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line| line != "END") {
        seen.push(client.line()?);
    }
    for line in ["STAT maxbytes 33554432", "STAT num_threads 2"] {
        ensure!(seen.iter().any(|seen| seen == line), "{line} is not in {seen:?}");
    }
    Ok(())
}

#[test]
fn a_connection_above_the_limit_is_told_so_and_counted() -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(&format!("{mode}maxConnections: 3\n"))?;
        let mut clients = (0..3).map(|_| node.client()).collect::<Outcome<Vec<_>>>()?;
        for client in &mut clients {
            client.expect(b"mn\r\n", b"MN\r\n")?;
        }
        let answer = node.client()?.rest()?;
        ensure!(answer == b"SERVER_ERROR too many open connections\r\n", "{name}: {}", answer.escape_ascii());
        node.wait_for_metric("gannet_connections_refused_total", |refused| refused == 1.0)?;
        node.wait_for_metric("gannet_connections", |open| open == 3.0)?;
        drop(clients.pop());
        node.wait_for_metric("gannet_connections", |open| open == 2.0)?;
        eventually(|| node.client()?.expect(b"mn\r\n", b"MN\r\n"))?;
    }
    Ok(())
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() -> Outcome {
    let node = Node::start("idleTimeout: 2s\n")?;
    let (mut idle, mut busy) = (node.client()?, node.client()?);
    idle.expect(b"mn\r\n", b"MN\r\n")?;
    node.wait_for_metric("gannet_connections", |open| open == 2.0)?;
    let ended = Instant::now();
    while node.metric("gannet_connections")? > 1.0 {
        busy.expect(b"mn\r\n", b"MN\r\n")?;
        ensure!(ended.elapsed() < tests::node::PATIENCE, "the idle connection stays");
    }
    ensure!(idle.rest()?.is_empty(), "an idle connection is closed with words");
    node.wait_for_metric("gannet_connections_closed_total{reason=\"idle\"}", |closed| closed == 1.0)?;
    busy.expect(b"mn\r\n", b"MN\r\n")
}

/// A client that asks for much and reads nothing: it is not served further than the buffers allow, others are, and it
/// gets all of it once it reads.
#[test]
fn a_slow_reader_is_paused_and_loses_nothing() -> Outcome {
    const LENGTH: usize = 100_000;
    const REQUESTS: usize = 2000;
    for (name, mode) in MODES {
        let node = Node::start(&format!("{mode}bufferMemory: 2Mi\n"))?;
        let mut other = node.client()?;
        let value = vec![b'x'; LENGTH];
        other.send(&[format!("set k 0 0 {LENGTH}\r\n").as_bytes(), &value, b"\r\n"].concat())?;
        other.expect_answer(b"STORED\r\n")?;
        let mut slow = node.client()?;
        slow.send(&b"get k\r\n".repeat(REQUESTS))?;
        // It has begun to be served, and is stuck as soon as no more goes out.
        node.wait_for_metric("gannet_sent_bytes_total", |sent| sent > LENGTH as f64)?;
        let mut sent = 0.0;
        eventually(|| {
            let before = std::mem::replace(&mut sent, node.metric("gannet_sent_bytes_total")?);
            for _ in 0..100 {
                other.expect(b"mn\r\n", b"MN\r\n")?;
            }
            ensure!(sent - before <= 500.0, "{name}: the slow reader is still being served");
            Ok(())
        })?;
        ensure!(sent < (LENGTH * REQUESTS / 2) as f64, "{name}: {sent} bytes went to a client that reads nothing");
        let buffers = node.metric("gannet_memory_bytes{part=\"buffers\"}")?;
        ensure!(buffers <= f64::from(2 << 20), "{name}: {buffers} bytes of buffers");
        let answer = [format!("VALUE k 0 {LENGTH}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
        for _ in 0..REQUESTS {
            slow.expect_answer(&answer)?;
        }
    }
    Ok(())
}

/// Half a line costs no buffer: many sessions can be in the middle of one.
#[test]
fn half_a_line_takes_no_buffer() -> Outcome {
    let node = Node::start("bufferMemory: 2Mi\n")?;
    let mut clients = Vec::new();
    for number in 0..500 {
        let mut client = node.client()?;
        client.send(format!("set k{number} 0 0 5\r\nva").as_bytes())?;
        clients.push(client);
    }
    node.client()?.expect(b"mn\r\n", b"MN\r\n")?;
    for client in &mut clients {
        client.expect(b"lue\r\n", b"STORED\r\n")?;
    }
    ensure!(node.metric("gannet_buffer_waits_total")? < 1.0, "somebody had to wait for memory");
    Ok(())
}

/// Sessions hold all buffers with values that do not come: those that wait are served when these have to make way.
#[test]
fn sessions_that_hold_all_buffers_make_way() -> Outcome {
    // A worker that has the cache itself would receive such values straight into it.
    let node = Node::start("bufferMemory: 2Mi\nstorageThread: Always\n")?;
    let mut holders = Vec::new();
    for _ in 0..16 {
        let mut holder = node.client()?;
        holder.send(&[&b"set k 0 0 140000\r\n"[..], &[b'x'; 30_000]].concat())?;
        holders.push(holder);
    }
    node.wait_for_metric("gannet_buffer_waits_total", |waits| waits >= 1.0)?;
    ensure!(node.metric("gannet_memory_bytes{part=\"buffers\"}")? <= f64::from(2 << 20), "the budget is exceeded");
    let mut client = node.client()?;
    client.send(&[&b"set k 0 0 140000\r\n"[..], &[b'x'; 140_000], b"\r\n"].concat())?;
    client.expect_answer(b"STORED\r\n")?;
    node.wait_for_metric("gannet_connections_closed_total{reason=\"stalled\"}", |closed| closed >= 1.0)?;
    Ok(())
}

#[test]
fn a_drain_announces_itself_and_ends_between_requests() -> Outcome {
    for (name, mode) in MODES {
        for by_request in [false, true] {
            let node = Node::start(&format!("{mode}drainDelay: 1s\n"))?;
            drains(node, by_request).map_err(|failure| failure.while_doing(name))?;
        }
    }
    Ok(())
}

fn drains(mut node: Node, by_request: bool) -> Outcome {
    ensure!(http(node.health, "GET", "/readyz")?.0 == 200, "a serving node is not ready");
    let (mut idle, mut busy) = (node.client()?, node.client()?);
    idle.expect(b"mn\r\n", b"MN\r\n")?;
    busy.expect(b"set a 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
    busy.send(b"set a 0 0 5\r\nvalu")?;
    if by_request {
        let (status, text) = http(node.admin, "POST", "/drain")?;
        ensure!(status == 202, "POST /drain is answered with {status}: {text}");
    } else {
        node.signal("TERM")?;
    }
    eventually(|| {
        let (status, text) = http(node.health, "GET", "/readyz")?;
        ensure!(status == 503 && text.contains("draining"), "a draining node answers {status}: {text}");
        Ok(())
    })?;
    // The delay is for clients that have not heard of it yet.
    node.client()?.expect(b"get a\r\n", b"VALUE a 0 5\r\nvalue\r\nEND\r\n")?;
    ensure!(http(node.health, "GET", "/livez")?.0 == 200, "a draining node is not live");
    ensure!(idle.rest()?.is_empty(), "an idle connection is closed with words");
    busy.expect(b"e\r\n", b"STORED\r\n")?;
    ensure!(busy.rest()?.is_empty(), "a connection is closed with words");
    let status = node.wait()?;
    ensure!(status.code() == Some(0), "a drained node ends with {status}");
    ensure!(Client::connect(node.address).is_err(), "somebody still listens");
    Ok(())
}

#[test]
fn a_second_signal_ends_at_once() -> Outcome {
    for signal in ["TERM", "INT"] {
        let mut node = Node::start("drainDelay: 1h\n")?;
        let _busy = node.client()?;
        node.signal("TERM")?;
        node.wait_for_log("draining")?;
        node.signal(signal)?;
        ensure!(node.wait()?.code() == Some(0), "SIG{signal} while draining ends with an error");
    }
    let mut node = Node::start("drainDelay: 1h\n")?;
    node.signal("INT")?;
    ensure!(node.wait()?.code() == Some(0), "SIGINT ends with an error");
    Ok(())
}

#[test]
fn health_and_status_speak_for_the_node() -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(mode)?;
        for path in ["/livez", "/readyz"] {
            let (status, text) = http(node.health, "GET", path)?;
            ensure!(status == 200, "{name}: {path} answers {status}: {text}");
        }
        let mut client = node.client()?;
        client.expect(b"set a 0 0 1\r\nx\r\nget a\r\nget b\r\n", b"STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nEND\r\n")?;
        node.wait_for_metric("gannet_items", |items| items == 1.0)?;
        let (_, text) = http(node.admin, "GET", "/status")?;
        let status: config::Status = serde_json::from_str(&text)?;
        ensure!(status.phase == config::Phase::Serving, "{text}");
        ensure!(status.version == env!("CARGO_PKG_VERSION"), "{text}");
        ensure!(status.configuration_hash.len() == 16, "{text}");
        ensure!((status.requests.hits, status.requests.misses, status.requests.total) == (1, 1, 3), "{text}");
        ensure!((status.items.live, status.connections.open) == (1, 1), "{text}");
        ensure!(status.requests.received_bytes == 30 && status.requests.sent_bytes == 34, "{text}");
        let counts: Vec<_> = status.latencies.iter().map(|(kind, took)| (kind.as_str(), took.count())).collect();
        ensure!(counts == [("get", 2), ("set", 1)], "{text}");
        ensure!(status.memory.cache_used > 0 && status.memory.resident > 1 << 20, "{text}");
        ensure!(http(node.admin, "GET", "/nonsense")?.0 == 404, "{name}: nonsense is found");
    }
    Ok(())
}

#[test]
fn every_metric_moves() -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(&format!("{mode}memory: 16Mi\nmaxConnections: 2\nbufferMemory: 2Mi\n"))?;
        moves_every_metric(&node).map_err(|failure| failure.while_doing(name))?;
    }
    Ok(())
}

fn moves_every_metric(node: &Node) -> Outcome {
    let before = metrics(node)?;
    let mut client = node.client()?;
    client.send(b"gets a\r\nset a 0 0 1\r\n1\r\nget a\r\ngat 0 a b\r\nadd a 0 0 1\r\n1\r\nadd c 0 0 1\r\n1\r\n")?;
    client.send(b"replace a 0 0 1\r\n1\r\nreplace n 0 0 1\r\n1\r\nappend a 0 0 1\r\n1\r\nappend n 0 0 1\r\n1\r\n")?;
    client.send(b"prepend a 0 0 1\r\n1\r\nprepend n 0 0 1\r\n1\r\nincr a 1\r\nincr n 1\r\ndecr a 1\r\ndecr n 1\r\n")?;
    client.send(b"cas a 0 0 1 1\r\n1\r\ncas n 0 0 1 1\r\n1\r\ntouch a 0\r\ntouch n 0\r\ndelete c\r\ndelete n\r\n")?;
    client.send(b"nonsense\r\nversion\r\nflush_all\r\nset a 0 1 1\r\n1\r\ngets a\r\n")?;
    let cas = loop {
        let line = client.line()?;
        if let Some(cas) = line.strip_prefix("VALUE a 0 1 ") {
            break cas.to_owned();
        }
    };
    client.expect_answer(b"1\r\nEND\r\n")?;
    client.expect(format!("cas a 0 1 1 {cas}\r\n1\r\n").as_bytes(), b"STORED\r\n")?;
    client.send(&[b"set big 0 0 2000000\r\n", &vec![b'x'; 2_000_000][..], b"\r\n"].concat())?;
    client.expect_answer(b"SERVER_ERROR object too large for cache\r\n")?;
    // So many that the index grows, and then more than fits, so that items are evicted.
    let small: Vec<u8> =
        (0..30_000).flat_map(|key| format!("set k{key} 0 0 1 noreply\r\nx\r\n").into_bytes()).collect();
    client.send(&small)?;
    for number in 0..300 {
        client.send(
            &[format!("set fill{number} 0 0 100000\r\n").as_bytes(), &vec![b'x'; 100_000][..], b"\r\n"].concat(),
        )?;
        client.expect_answer(b"STORED\r\n")?;
    }
    let _second = node.client()?;
    node.wait_for_metric("gannet_connections", |open| open == 2.0)?;
    ensure!(!node.client()?.rest()?.is_empty(), "a third connection is not refused");
    node.wait_for_metric("gannet_expired_items_total", |expired| expired >= 1.0)?;
    node.wait_for_metric("gannet_evicted_items_total", |evicted| evicted >= 1.0)?;
    let after = metrics(node)?;
    // Those that stand still here are moved by tests of their own, or do not move.
    let still = [
        "gannet_build_info",
        "gannet_ready",
        "gannet_connections_limit",
        "gannet_memory_limit_bytes",
        "gannet_memory_bytes{part=\"metadata\"}",
    ];
    let elsewhere = [
        "gannet_connections_closed_total",
        "gannet_connections_moved_total",
        "gannet_buffer_waits_total",
        "gannet_slow_commands_total",
        "gannet_worker_busy_ratio",
    ];
    let without = |name: &str| {
        let label = |label: &str| name.contains(&format!("command=\"{label}\""));
        let never = ["gannet_hits_total", "gannet_misses_total", "gannet_conflicts_total"];
        let has_no_value =
            !["get", "gat", "set", "add", "replace", "append", "prepend", "cas"].iter().any(|kind| label(kind));
        if name.starts_with("gannet_value_bytes_total") {
            return has_no_value;
        }
        let is_cas_only = name.starts_with("gannet_conflicts_total") && !label("cas");
        let has_no_misses = ["set", "flush_all", "service", "invalid"].iter().any(|kind| label(kind));
        is_cas_only || (never.iter().any(|metric| name.starts_with(metric)) && has_no_misses && !is_set_hit(name))
    };
    for (name, value) in &before {
        let is_exempt = still.iter().chain(&elsewhere).any(|prefix| name.starts_with(prefix)) || without(name);
        // Buckets below the fastest request stay empty.
        if is_exempt || name.contains("_bucket{") {
            continue;
        }
        let now = after.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
        let now = now.ok_or_else(|| Failure::new(format!("{name} is gone")))?;
        ensure!((now - value).abs() > f64::EPSILON, "{name} stays at {value}");
    }
    every_request_took_its_time(node)
}

/// No request is missing in the histograms, whatever its kind.
fn every_request_took_its_time(node: &Node) -> Outcome {
    // The last reply may have arrived before it was counted.
    eventually(|| {
        let metrics = metrics(node)?;
        let requests =
            metrics.iter().filter_map(|(name, value)| Some((name.strip_prefix("gannet_requests_total")?, value)));
        for (command, count) in requests {
            let name = format!("gannet_request_duration_seconds_count{command}");
            let measured = metrics.iter().find(|(other, _)| *other == name).map(|(_, value)| value);
            ensure!(measured == Some(count), "{count} requests but {name} is {measured:?}");
        }
        let last = r#"gannet_request_duration_seconds_bucket{command="set",le="+Inf"}"#;
        ensure!(metrics.iter().any(|(name, count)| name == last && *count > 300.0), "{last} has not counted all");
        Ok(())
    })
}

fn is_set_hit(name: &str) -> bool {
    name == "gannet_hits_total{command=\"set\"}"
}

fn metrics(node: &Node) -> Outcome<Vec<(String, f64)>> {
    let (_, text) = http(node.admin, "GET", "/metrics")?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').ok_or_else(|| Failure::new(format!("no value in {line}")))?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}
