//! Clients that ask for too much, too slowly or without end: each costs the node a bounded amount, and the others nothing.

use std::io::Read;
use std::net::TcpStream;

use config::Status;
use tests::ensure;
use tests::failure::Outcome;
use tests::node::{Client, MODES, Node, PATIENCE, eventually, http};

const BUFFERS: u64 = 2 << 20;

fn in_each_mode(lines: &str, test: impl Fn(&Node) -> Outcome) -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(&format!("{mode}bufferMemory: 2Mi\n{lines}"))?;
        test(&node).map_err(|failure| failure.while_doing(name))?;
    }
    Ok(())
}

fn status(node: &Node) -> Outcome<Status> {
    Ok(serde_json::from_str(&http(node.admin, "GET", "/status")?.1)?)
}

/// The others are served, and the budget is kept.
fn is_well(node: &Node) -> Outcome {
    node.client()?.expect(b"mn\r\n", b"MN\r\n")?;
    let used = status(node)?.memory.buffers_used;
    ensure!(used <= BUFFERS, "{used} bytes of buffers are in use");
    Ok(())
}

#[test]
fn many_large_values_are_sent_as_fast_as_each_client_reads() -> Outcome {
    const VALUES: usize = 40;
    const LENGTH: usize = 60_000;
    const READERS: usize = 5;
    in_each_mode("", |node| {
        let mut writer = node.client()?;
        let (mut request, mut answer) = (b"get".to_vec(), Vec::new());
        for number in 0..VALUES {
            let value = vec![b'a' + number as u8 % 26; LENGTH];
            writer.send(&[format!("set v{number} 0 0 {LENGTH}\r\n").as_bytes(), &value, b"\r\n"].concat())?;
            writer.expect_answer(b"STORED\r\n")?;
            request.extend_from_slice(format!(" v{number}").as_bytes());
            answer.extend_from_slice(&[format!("VALUE v{number} 0 {LENGTH}\r\n").as_bytes(), &value, b"\r\n"].concat());
        }
        request.extend_from_slice(b"\r\n");
        answer.extend_from_slice(b"END\r\n");
        let mut readers = (0..READERS).map(|_| node.client()).collect::<Outcome<Vec<Client>>>()?;
        for reader in &mut readers {
            reader.send(&request)?;
        }
        is_well(node)?;
        for reader in &mut readers {
            reader.expect_answer(&answer)?;
            is_well(node)?;
        }
        Ok(())
    })
}

#[test]
fn values_that_come_in_drops_are_stored_whole() -> Outcome {
    const WRITERS: usize = 10;
    const LENGTH: usize = 30_000;
    const DROP: usize = 1000;
    in_each_mode("", |node| {
        let mut writers = (0..WRITERS).map(|_| node.client()).collect::<Outcome<Vec<Client>>>()?;
        let value = |number: usize| vec![b'a' + number as u8; LENGTH];
        for (number, writer) in writers.iter_mut().enumerate() {
            writer.send(format!("set k{number} 0 0 {LENGTH}\r\n").as_bytes())?;
        }
        for start in (0..LENGTH).step_by(DROP) {
            for (number, writer) in writers.iter_mut().enumerate() {
                writer.send(&value(number)[start..start + DROP])?;
            }
            is_well(node)?;
        }
        for (number, writer) in writers.iter_mut().enumerate() {
            writer.expect(b"\r\n", b"STORED\r\n")?;
            let answer =
                [format!("VALUE k{number} 0 {LENGTH}\r\n").as_bytes(), &value(number), b"\r\nEND\r\n"].concat();
            writer.expect(format!("get k{number}\r\n").as_bytes(), &answer)?;
        }
        Ok(())
    })
}

#[test]
fn who_has_sent_all_gets_all_replies_and_then_the_end() -> Outcome {
    const CLIENTS: usize = 50;
    const REQUESTS: usize = 500;
    in_each_mode("", |node| {
        node.client()?.expect(b"set k 0 0 5\r\nvalue\r\n", b"STORED\r\n")?;
        let mut clients = (0..CLIENTS).map(|_| node.client()).collect::<Outcome<Vec<Client>>>()?;
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&b"get k\r\n".repeat(REQUESTS))?;
            if number % 2 == 0 {
                client.send(b"set half 0 0 10\r\nhalf")?;
            }
            client.finish()?;
        }
        let answer = b"VALUE k 0 5\r\nvalue\r\nEND\r\n".repeat(REQUESTS);
        for client in &mut clients {
            let rest = client.rest()?;
            ensure!(rest == answer, "{} of {} bytes came", rest.len(), answer.len());
        }
        drop(clients);
        eventually(|| {
            let open = status(node)?.connections.open;
            ensure!(open == 0, "{open} connections are still open");
            Ok(())
        })?;
        node.client()?.expect(b"get half\r\n", b"END\r\n")
    })
}

#[test]
fn a_flood_of_connections_is_refused_and_counted() -> Outcome {
    const LIMIT: usize = 50;
    const FLOOD: usize = 500;
    in_each_mode("maxConnections: 50\n", |node| {
        let mut held = (0..LIMIT).map(|_| node.client()).collect::<Outcome<Vec<Client>>>()?;
        for client in &mut held {
            client.expect(b"mn\r\n", b"MN\r\n")?;
        }
        let flood: Vec<_> = (0..FLOOD).map(|_| TcpStream::connect_timeout(&node.address, PATIENCE)).collect();
        for stream in flood {
            let mut stream = stream?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            ensure!(answer == b"SERVER_ERROR too many open connections\r\n", "{}", answer.escape_ascii());
        }
        let connections = status(node)?.connections;
        ensure!((connections.open, connections.refused) == (LIMIT as u64, FLOOD as u64), "{connections:?}");
        for client in &mut held {
            client.expect(b"mn\r\n", b"MN\r\n")?;
        }
        Ok(())
    })
}

#[test]
fn a_request_that_does_not_end_ends_the_connection() -> Outcome {
    const PIECE: usize = 4096;
    const MOST_PIECES: usize = 4096;
    in_each_mode("", |node| {
        for (begin, goes_on) in [(&b"get "[..], &b"key "[..]), (b"set ", b"x"), (b"", b"\0"), (b"mg k ", b"v ")] {
            let mut client = node.client()?;
            client.send(begin)?;
            let piece = goes_on.repeat(PIECE / goes_on.len());
            // Sixteen megabytes are far more than any line may have.
            let mut sent = (0..MOST_PIECES).map(|_| client.send(&piece));
            ensure!(sent.any(|sent| sent.is_err()), "{} goes on and on", begin.escape_ascii());
            is_well(node)?;
        }
        Ok(())
    })
}
