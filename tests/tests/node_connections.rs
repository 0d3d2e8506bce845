//! Ten thousand connections at once.

use std::io::{Read, Write};
use std::net::TcpStream;

use config::{Latencies, Status};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{MODES, Node, PATIENCE, eventually, http};

const CONNECTIONS: usize = 10_000;
/// Open files beside the connections: in the test, and in the node.
const OTHERS: u64 = 200;
/// How often all of them ask.
const ROUNDS: usize = 3;
/// Batches that a worker keeps for the next request, and what one of them is at most counted as.
const KEPT: u64 = 2 * 32 * (64 << 10);

#[test]
fn ten_thousand_connections_are_all_served_and_then_hold_nothing() -> Outcome {
    let needed = CONNECTIONS as u64 + OTHERS;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|limit| limit < needed) {
        println!("not run: the hard limit of open files (ulimit -Hn) is {maximum:?}, and {needed} are needed");
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    for (name, mode) in MODES {
        let node = Node::start(&format!("{mode}maxConnections: {CONNECTIONS}\n"))?;
        serves_all(&node).map_err(|failure| failure.while_doing(name))?;
        let latencies = latencies(&node)?;
        let p999 = latencies.quantile(0.999).unwrap_or_default();
        println!("{name}: {} requests of {CONNECTIONS} connections, p999 {p999} us", latencies.count());
    }
    Ok(())
}

fn serves_all(node: &Node) -> Outcome {
    node.client()?.expect(b"set k 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
    eventually(|| {
        ensure!(status(node)?.connections.open == 0, "the first connection is still counted");
        Ok(())
    })?;
    let mut streams = (0..CONNECTIONS).map(|_| connect(node)).collect::<Outcome<Vec<_>>>()?;
    for round in 0..ROUNDS {
        // All have asked before the first reply is read.
        for stream in &mut streams {
            stream.write_all(b"get k\r\nget none\r\n")?;
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut reply = [0; 26];
            let read = stream.read_exact(&mut reply);
            read.map_err(|error| Failure::new(format!("round {round}, connection {number}: {error}")))?;
            ensure!(&reply == b"VALUE k 0 5\r\nvalue\r\nEND\r\nE", "{}", reply.escape_ascii());
            stream.read_exact(&mut reply[..4])?;
        }
        holds_nothing(node)?;
    }
    let Status { connections, .. } = status(node)?;
    ensure!(connections.refused == 0, "{} connections were refused", connections.refused);
    // One more is one too many.
    let mut answer = Vec::new();
    connect(node)?.read_to_end(&mut answer)?;
    ensure!(answer == b"SERVER_ERROR too many open connections\r\n", "{}", answer.escape_ascii());
    Ok(())
}

/// All are open, idle, and without buffers but those that workers keep at hand.
fn holds_nothing(node: &Node) -> Outcome {
    eventually(|| {
        let Status { connections, memory, .. } = status(node)?;
        ensure!(connections.open == CONNECTIONS as u64, "{} connections are open", connections.open);
        ensure!(memory.buffers_used <= KEPT, "{} bytes of buffers are held", memory.buffers_used);
        Ok(())
    })
}

fn connect(node: &Node) -> Outcome<TcpStream> {
    let stream = TcpStream::connect_timeout(&node.address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn status(node: &Node) -> Outcome<Status> {
    Ok(serde_json::from_str(&http(node.admin, "GET", "/status")?.1)?)
}

fn latencies(node: &Node) -> Outcome<Latencies> {
    let mut sum = Latencies::default();
    status(node)?.latencies.values().for_each(|latencies| sum.merge(latencies));
    Ok(sum)
}
