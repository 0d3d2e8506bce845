//! More clients at once than the smallest budget has buffers for: they wait for each other, and all of them get through.

use std::thread;

use tests::failure::{Failure, Outcome};
use tests::node::{MODES, Node};

/// As small as a configuration may be: half of it is one of the largest values.
const LINES: &str = "bufferMemory: 2Mi\nmaxItemSize: 1Mi\n";
const CLIENTS: usize = 80;
const VALUE: usize = 900_000;

#[test]
fn a_small_budget_is_shared_until_all_are_served() -> Outcome {
    for (name, mode) in MODES {
        let node = &Node::start(&format!("{mode}{LINES}"))?;
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(move || talk(node, number).map_err(|failure| failure.to_string())))
                .collect();
            clients.into_iter().try_for_each(|client| match client.join() {
                Ok(result) => result.map_err(|failure| Failure::new(format!("{name}: {failure}"))),
                Err(_) => Err(Failure::new("a client panicked")),
            })
        })?;
    }
    Ok(())
}

/// Stores a large value, of which the first bytes come alone, and reads it back.
fn talk(node: &Node, number: usize) -> Outcome {
    let mut client = node.client()?;
    let value = vec![b'a' + (number % 26) as u8; VALUE];
    let (first, rest) = value.split_at(20_000);
    client.send(&[format!("set key{number} 0 0 {VALUE}\r\n").as_bytes(), first].concat())?;
    client.send(&[rest, b"\r\n"].concat())?;
    client.expect_answer(b"STORED\r\n")?;
    // What was evicted meanwhile is a miss; the connection lives, which is what is asked here.
    client.send(format!("get key{number}\r\nversion\r\n").as_bytes())?;
    loop {
        if client.line()?.starts_with("VERSION ") {
            return Ok(());
        }
    }
}
