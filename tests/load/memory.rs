//! What an item costs: the resident memory of a whole server divided by the items that it serves, beside memcached with
//! the same resident memory.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, Memcached, Node, eventually};

use crate::usage::Usage;

/// Fill a cache-node and memcached until they evict, and as much again, and see what an item costs them.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Memory of the node for items and their index
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [1024_u64, 256])]
    mebibytes: Vec<u64>,
    /// Bytes of a value
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [32_usize, 100])]
    value_size: Vec<usize>,
    /// The folder for the report, memory.md
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

const KEY_LENGTH: usize = 14;
const TTL: u64 = 3600;
/// Items of one write to the socket, without replies; then both sides meet at an `mn`.
const ITEMS_OF_A_WRITE: u64 = 2000;
/// Items between two looks at the statistics.
const ITEMS_OF_A_LOOK: u64 = 200_000;
/// No server of the sizes here holds so many.
const MOST_ITEMS: u64 = 1 << 28;
const MIB: u64 = 1 << 20;

/// A server that was filled.
struct Filled {
    resident: u64,
    items: u64,
}

impl Filled {
    fn each(&self) -> f64 {
        self.resident as f64 / self.items as f64
    }
}

/// # Errors
/// Where a server does not start, or ends, or does not answer as it should.
pub fn run(options: &Options) -> Outcome {
    let mut report = format!(
        "Resident memory of the whole process (VmRSS) divided by the items in it; keys of {KEY_LENGTH} bytes, TTL {TTL} s, \
         filled until it evicts and half as much again. memcached is given as much as makes its resident memory the node's.\n\n\
         | memory | value | cache-node | items | bytes an item | memcached | items | bytes an item | ratio |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    let mut ledgers = String::new();
    for mebibytes in &options.mebibytes {
        for length in &options.value_size {
            let (node, ledger) = fill_node(*mebibytes, *length)?;
            let memcached = fill_memcached(node.resident, *length)?;
            let (ours, theirs) = (node.each(), memcached.each());
            writeln!(
                report,
                "| {mebibytes} MiB | {length} | {} MiB | {} | **{ours:.1}** | {} MiB | {} | {theirs:.1} | {:.2} |",
                node.resident / MIB,
                node.items,
                memcached.resident / MIB,
                memcached.items,
                ours / theirs
            )?;
            write!(ledgers, "\n### {mebibytes} MiB, values of {length} bytes\n\n{ledger}")?;
        }
    }
    report += "\n## Where the bytes of an item are\n";
    report += &ledgers;
    print!("{report}");
    fs::create_dir_all(&options.out)?;
    write_report(&options.out.join("memory.md"), &report)
}

fn write_report(file: &Path, text: &str) -> Outcome {
    fs::write(file, text).map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

fn fill_node(mebibytes: u64, length: usize) -> Outcome<(Filled, String)> {
    let node = Node::start(&format!("memory: {mebibytes}Mi\nbufferMemory: 16Mi\nmaxConnections: 100\n"))?;
    let empty = program()?;
    let mut client = node.client()?;
    let mut items = fill(&mut client, length)?;
    // Some maintenance is done when all is quiet.
    eventually(|| {
        items = statistic(&mut client, "curr_items")?;
        let published = node.metric("gannet_items")?;
        tests::ensure!(published == items as f64, "{items} items, {published} published");
        Ok(())
    })?;
    let resident = Usage::of(node.id())?.resident;
    let published = |name: &str| node.metric(name).map(|bytes| bytes / items as f64);
    let records = published("gannet_item_bytes")?;
    let index = published("gannet_memory_bytes{part=\"index\"}")?;
    let segments = published("gannet_memory_bytes{part=\"segments\"}")?;
    let payload = (KEY_LENGTH + length) as f64;
    let whole = resident as f64 / items as f64;
    let rows = [
        ("key and value", payload),
        ("header: lengths, write sequence (the CAS), deadline", records - payload),
        ("index", index),
        ("segments in use: dead records, unwritten ends", segments - records),
        (
            "free segments, metadata of segments and buckets, buffers",
            whole - index - segments - empty as f64 / items as f64,
        ),
        ("the program before its first item", empty as f64 / items as f64),
        ("**resident memory**", whole),
    ];
    let mut ledger = String::from("| | bytes an item |\n|---|---|\n");
    for (name, bytes) in rows {
        writeln!(ledger, "| {name} | {bytes:.2} |")?;
    }
    Ok((Filled { resident, items }, ledger))
}

/// What a node takes that has hardly any memory for items, and so none that is ready ahead of them.
fn program() -> Outcome<u64> {
    let node = Node::start("memory: 8Mi\nbufferMemory: 16Mi\nmaxConnections: 100\n")?;
    Ok(Usage::of(node.id())?.resident)
}

/// memcached's `-m` is without its hash table and what else it has: it is filled twice, the second time with what is
/// left for items when all is to be `resident`.
fn fill_memcached(resident: u64, length: usize) -> Outcome<Filled> {
    let mut limit = resident / MIB;
    let mut filled = None;
    for _ in 0..2 {
        let server = Memcached::start(&["-t", "1", "-m", &limit.to_string()])?;
        let items = fill(&mut Client::connect(server.address)?, length)?;
        let found = Filled { resident: Usage::of(server.id())?.resident, items };
        limit = (limit + resident / MIB).saturating_sub(found.resident / MIB).max(1);
        filled = Some(found);
    }
    filled.ok_or_else(|| Failure::new("memcached was not filled"))
}

/// Stores items until some are evicted, and half as much again; returns how many there are in the end.
fn fill(client: &mut Client, length: usize) -> Outcome<u64> {
    let (mut written, mut end) = (0, MOST_ITEMS);
    let mut buffer = Vec::new();
    while written < end {
        buffer.clear();
        for number in written..written + ITEMS_OF_A_WRITE {
            buffer.extend_from_slice(format!("set key:{number:010} 0 {TTL} {length} noreply\r\n").as_bytes());
            buffer.resize(buffer.len() + length, b'v');
            buffer.extend_from_slice(b"\r\n");
        }
        buffer.extend_from_slice(b"mn\r\n");
        client.expect(&buffer, b"MN\r\n")?;
        written += ITEMS_OF_A_WRITE;
        if end == MOST_ITEMS && written.is_multiple_of(ITEMS_OF_A_LOOK) && statistic(client, "evictions")? > 0 {
            end = written + written / 2;
        }
    }
    tests::ensure!(end < MOST_ITEMS, "{MOST_ITEMS} items were stored, and none was evicted");
    statistic(client, "curr_items")
}

/// One line of `stats`.
fn statistic(client: &mut Client, name: &str) -> Outcome<u64> {
    client.send(b"stats\r\n")?;
    let mut value = None;
    loop {
        let line = client.line()?;
        if line == "END" {
            return value.ok_or_else(|| Failure::new(format!("stats has no {name}")));
        }
        if let Some(text) = line.strip_prefix("STAT ").and_then(|line| line.strip_prefix(name)?.strip_prefix(' ')) {
            value = Some(text.parse()?);
        }
    }
}
