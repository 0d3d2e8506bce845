//! A node that speaks the ping protocol, in each way in which it can divide its work.

use tests::ensure;
use tests::failure::Outcome;
use tests::node::{MODES, Node, exchange};

#[test]
fn a_ping_is_answered_and_nothing_else_is_understood() -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(&format!("{mode}protocol: Ping\n"))?;
        converse(&node).map_err(|failure| failure.while_doing(name))?;
    }
    Ok(())
}

fn converse(node: &Node) -> Outcome {
    let mut client = node.client()?;
    client.expect(b"PING\r\n", b"PONG\r\n")?;
    client.expect(b"get key\r\n", b"ERROR\r\n")?;
    client.send(b"PI")?;
    client.expect(b"NG\r\nPING\r\n", b"PONG\r\nPONG\r\n")?;
    let many = 5000;
    client.send(&b"PING\r\n".repeat(many))?;
    client.expect_answer(&b"PONG\r\n".repeat(many))?;
    // What was asked before the client closed its half is answered.
    let all = exchange(node.address, &[b"PING\r\nset key 0 0 1\r\nPING\r\n"])?;
    ensure!(all == b"PONG\r\nERROR\r\nPONG\r\n", "{}", all.escape_ascii());
    Ok(())
}
