//! A node keeps within the container limit that its budget was divided from, whatever its clients do.

use std::fs;

use config::{Budget, Bytes, Config, Tls};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Node, argument, eventually};
use tests::secret::{Authority, Leaf, Secret};
use tests::tls::{TlsClient, identity};

const LIMIT: u64 = 96 << 20;
const CONNECTIONS: u32 = 2000;
const MAX_ITEM: u64 = 1 << 20;
const SLOW_READERS: usize = 50;

#[test]
fn resident_memory_stays_below_the_limit() -> Outcome {
    for (name, mode) in MODES {
        let workers = if mode.contains("workers: 2") { 2 } else { 1 };
        let node =
            Config { workers, max_connections: CONNECTIONS, max_item_size: Bytes(MAX_ITEM), ..Config::default() };
        let Config { memory, buffer_memory, .. } = Budget::divide(Bytes(LIMIT), &node)?.apply(node);
        let lines = format!("{mode}memory: {memory}\nbufferMemory: {buffer_memory}\nmaxConnections: {CONNECTIONS}\n");
        let node = Node::start(&lines)?;
        let peak = strain(&node).map_err(|failure| failure.while_doing(name))?;
        println!("{name}: at most {} of {} KiB resident", peak >> 10, LIMIT >> 10);
        ensure!(peak <= LIMIT, "{name}: {} KiB were resident, {} KiB is the limit", peak >> 10, LIMIT >> 10);
        // A budget that leaves much of a limit unused wastes the memory that it was given.
        ensure!(peak >= memory.0 * 9 / 10, "{name}: only {} KiB were ever used", peak >> 10);
    }
    Ok(())
}

#[test]
fn a_connection_within_tls_takes_no_more_than_is_set_aside_for_it() -> Outcome {
    const WARM: usize = 50;
    const MORE: usize = 1000;
    let authority = Authority::new("data")?;
    let pair = authority.node()?;
    let files = [("ca.crt", &*authority.pem), ("node.crt", &pair.certificate), ("node.key", &pair.key)];
    let secret = Secret::mount(&files)?;
    let client = identity(&authority.pem, Some(&authority.issue(&Leaf::named(&["DNS:web"]))?))?;
    let folder = argument(secret.path());
    let node = Node::start(&format!("maxConnections: {CONNECTIONS}\ntls: {{directory: {folder}, name: node}}\n"))?;
    let connect = |count: usize| -> Outcome<Vec<TlsClient>> {
        (0..count).map(|_| TlsClient::connect(node.address, &client)).collect()
    };
    let _warm = connect(WARM)?;
    let before = memory(&node, "VmRSS:")?;
    let _more = connect(MORE)?;
    let each = memory(&node, "VmRSS:")?.saturating_sub(before) / MORE as u64;
    let reserve = |max_connections: u32| -> Outcome<u64> {
        let tls = Some(Tls::from_directory(secret.path()));
        Ok(Budget::divide(Bytes(1 << 30), &Config { tls, max_connections, ..Config::default() })?.reserve.0)
    };
    let set_aside = (reserve(20_000)? - reserve(10_000)?) / 10_000;
    println!("{each} of {set_aside} bytes");
    ensure!(each <= set_aside, "a connection within TLS takes {each} bytes, and {set_aside} are set aside for it");
    ensure!(each >= set_aside / 4, "of {set_aside} bytes that are set aside for a connection, only {each} are used");
    Ok(())
}

#[test]
fn memory_beside_items_is_told_apart_from_them() -> Outcome {
    const HELD: u64 = 2 << 20;
    let node = Node::start("memory: 64Mi\nmaxConnections: 600\n")?;
    fill(&mut node.client()?, 10_000, 3000)?;
    // What the cache holds is told a little later than it holds it.
    eventually(|| {
        let memory = node.status()?.memory;
        ensure!(memory.cache_used > 24 << 20, "the cache was not filled: {memory:?}");
        Ok(())
    })?;
    let memory = node.status()?.memory;
    ensure!(memory.anonymous < memory.cache_used / 2, "items are counted as memory beside them: {memory:?}");
    let mut clients = (0..500).map(|_| node.client()).collect::<Outcome<Vec<Client>>>()?;
    for client in &mut clients {
        client.send(&[b"set held 0 0 16000\r\n", [b'x'; 8000].as_slice()].concat())?;
    }
    eventually(|| {
        let now = node.status()?.memory.anonymous;
        ensure!(now > memory.anonymous + HELD, "500 connections hold nothing: {now} after {}", memory.anonymous);
        Ok(())
    })
}

/// Fills the cache several times over, and keeps every connection that there may be busy; returns the most memory that
/// ever was resident.
fn strain(node: &Node) -> Outcome<u64> {
    let mut writer = node.client()?;
    fill(&mut writer, 100, 600_000)?;
    fill(&mut writer, 10_000, 6000)?;
    let large = vec![b'x'; MAX_ITEM as usize];
    writer.send(&[format!("set large 0 0 {MAX_ITEM}\r\n").as_bytes(), &large, b"\r\n"].concat())?;
    writer.expect_answer(b"STORED\r\n")?;
    let mut clients = (1..CONNECTIONS).map(|_| node.client()).collect::<Outcome<Vec<Client>>>()?;
    let (slow, busy) = clients.split_at_mut(SLOW_READERS);
    for client in slow {
        client.send(&b"get large\r\n".repeat(20))?;
    }
    for round in 0..3 {
        for (number, client) in busy.iter_mut().enumerate() {
            client.send(format!("set c{number} 0 0 200\r\n").as_bytes())?;
            client.send(&[b'y'; 100])?;
            if round == 1 && number % 100 == 0 {
                writer.expect(b"mn\r\n", b"MN\r\n")?;
            }
        }
        for client in busy.iter_mut() {
            client.send(&[b'y'; 100])?;
            client.expect(b"\r\n", b"STORED\r\n")?;
        }
    }
    // The others have had their turn with as many sessions open as there may be. On a slow machine some of those that do not
    // read have made way for them.
    eventually(|| {
        let (open, stalled) =
            (node.metric("gannet_connections")?, node.metric("gannet_connections_closed_total{reason=\"stalled\"}")?);
        ensure!(
            open + stalled >= f64::from(CONNECTIONS) && stalled <= SLOW_READERS as f64,
            "{open} connections are open, and {stalled} have made way"
        );
        Ok(())
    })?;
    let mut peak = 0;
    eventually(|| {
        peak = memory(node, "VmHWM:")?;
        Ok(())
    })?;
    Ok(peak)
}

/// Sets `count` values of `length` bytes.
fn fill(client: &mut Client, length: usize, count: usize) -> Outcome {
    const AT_ONCE: usize = 500;
    let value = "v".repeat(length);
    for first in (0..count).step_by(AT_ONCE) {
        let keys = first..(first + AT_ONCE).min(count);
        let requests: String =
            keys.map(|key| format!("set fill-{length}-{key} 0 3600 {length} noreply\r\n{value}\r\n")).collect();
        client.send(requests.as_bytes())?;
    }
    client.expect(b"mn\r\n", b"MN\r\n")
}

/// What the kernel says of the process's memory under this name.
fn memory(node: &Node, name: &str) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = number.ok_or_else(|| Failure::new(format!("the kernel does not say {name}")))?.parse()?;
    Ok(kib << 10)
}
