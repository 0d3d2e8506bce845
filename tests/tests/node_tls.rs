//! Clients within TLS: those that are let in, and those that are not.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, SystemTime};
use std::{env, fs};

use rustls::ClientConfig;
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Node, argument, eventually};
use tests::secret::{Authority, Leaf, Secret};
use tests::tls::{TlsClient, VERSIONS, identity, identity_of_version};

/// A CA, a node's secret with it, and the name of the client that is let in.
struct Site {
    authority: Authority,
    secret: Secret,
}

const WEB: &str = "DNS:web.shop.svc";

impl Site {
    fn new() -> Outcome<Site> {
        let authority = Authority::new("data")?;
        let pair = authority.node()?;
        let files = [
            ("ca.crt", &*authority.pem),
            ("node.crt", &pair.certificate),
            ("node.key", &pair.key),
            ("identities", &format!("# who may\n{WEB}\nURI:spiffe://shop/web\n")),
        ];
        let secret = Secret::mount(&files)?;
        Ok(Site { authority, secret })
    }

    fn node(&self, lines: &str, tls: &str) -> Outcome<Node> {
        let folder = argument(self.secret.path());
        Node::start(&format!("{lines}tls: {{directory: {folder}, name: node{tls}}}\n"))
    }

    fn web(&self) -> Outcome<Arc<ClientConfig>> {
        identity(&self.authority.pem, Some(&self.authority.issue(&Leaf::named(&[WEB]))?))
    }
}

#[test]
fn requests_and_replies_are_those_of_the_clear() -> Outcome {
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(mode, "")?;
        let pair = site.authority.issue(&Leaf::named(&[WEB]))?;
        for (version, protocol) in VERSIONS {
            let web = identity_of_version(&site.authority.pem, Some(&pair), &[protocol])?;
            speaks(&node, &web).map_err(|failure| failure.while_doing(format!("{name}, TLS {version}")))?;
        }
        let full = node.metric("gannet_tls_handshakes_total{reason=\"\",result=\"full\"}")?;
        ensure!(full >= 2.0, "{name}: {full} handshakes");
    }
    Ok(())
}

fn speaks(node: &Node, web: &Arc<ClientConfig>) -> Outcome {
    let mut client = TlsClient::connect(node.address, web)?;
    client.expect(b"set a 0 0 5\r\nvalue\r\nget a\r\n", b"STORED\r\nVALUE a 0 5\r\nvalue\r\nEND\r\n")?;
    // Values of many records, and of a record's length and one byte beside it.
    for length in [1, 16_383, 16_384, 16_385, 65_536, 1_000_000] {
        let value: Vec<u8> = (0..length).map(|index: usize| (index % 251) as u8).collect();
        client.send(&[format!("set big 0 0 {length}\r\n").as_bytes(), &value, b"\r\n"].concat())?;
        client.expect_answer(b"STORED\r\n")?;
        let answer = [format!("VALUE big 0 {length}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
        client.expect(b"get big\r\n", &answer)?;
    }
    client.expect(&b"get a\r\n".repeat(2000), &b"VALUE a 0 5\r\nvalue\r\nEND\r\n".repeat(2000))?;
    // A record a byte, so that requests begin and end anywhere in them.
    for byte in b"set b 0 0 3\r\nabc\r\nget b\r\n" {
        client.send(&[*byte])?;
    }
    client.expect_answer(b"STORED\r\nVALUE b 0 3\r\nabc\r\nEND\r\n")?;
    for half_close in [false, true] {
        let mut client = TlsClient::connect(node.address, web)?;
        client.send(&b"get a\r\n".repeat(1000))?;
        client.finish(half_close)?;
        let answer = client.rest()?;
        ensure!(answer == b"VALUE a 0 5\r\nvalue\r\nEND\r\n".repeat(1000), "{} bytes of a pipeline's", answer.len());
    }
    let mut client = TlsClient::connect(node.address, web)?;
    client.send(b"quit\r\n")?;
    ensure!(client.rest()?.is_empty(), "a quit is answered");
    Ok(())
}

/// What came behind the handshake in the same packet is not lost on its way to the worker.
#[test]
fn requests_that_come_with_the_handshake_are_answered() -> Outcome {
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(mode, "")?;
        let web = site.web()?;
        for _ in 0..20 {
            let mut client = TlsClient::open(node.address, &web)?;
            let (session, socket) = client.parts();
            // The client's last message of the handshake and its first request leave by one call.
            while session.is_handshaking() {
                if session.wants_write() {
                    session.write_tls(socket)?;
                } else {
                    session.read_tls(socket)?;
                    session.process_new_packets()?;
                }
            }
            session.writer().write_all(b"mn\r\nmn\r\n")?;
            let mut bytes = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut bytes)?;
            }
            socket.write_all(&bytes)?;
            client.expect_answer(b"MN\r\nMN\r\n").map_err(|failure| failure.while_doing(name))?;
        }
    }
    Ok(())
}

const PYMEMCACHE: &str = r#"
import ssl, sys
from pymemcache.client.base import Client
folder, port = sys.argv[1], int(sys.argv[2])
context = ssl.create_default_context(cafile=f"{folder}/ca.crt")
context.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context.minimum_version = context.maximum_version = version
    client = Client(("127.0.0.1", port), tls_context=context, timeout=30, default_noreply=False)
    assert client.set("key", b"x" * 500_000), "set"
    assert client.get("key") == b"x" * 500_000, "get"
    assert client.set_many({f"k{n}": b"v" * n for n in range(100)}) == [], "set_many"
    assert len(client.get_many([f"k{n}" for n in range(100)])) == 100, "get_many"
    client.close()
"#;

#[test]
fn pymemcache_is_served_within_tls() -> Outcome {
    let python = env::var_os("GANNET_PYTHON").ok_or_else(|| {
        Failure::new("GANNET_PYTHON does not name a Python that has pymemcache; tests/run node sets it up")
    })?;
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(mode, "")?;
        let pair = site.authority.issue(&Leaf::named(&[WEB]))?;
        let files = [("ca.crt", &*site.authority.pem), ("tls.crt", &pair.certificate), ("tls.key", &pair.key)];
        let own = Secret::mount(&files)?;
        let port = node.address.port().to_string();
        let output = Command::new(&python).args(["-c", PYMEMCACHE, argument(own.path()), &port]).output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[test]
fn clients_that_are_not_let_in_are_refused_and_counted_by_reason() -> Outcome {
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(mode, "")?;
        let other = Authority::new("data")?;
        let mut good = TlsClient::connect(node.address, &site.web()?)?;
        let leaf =
            |authority: &Authority, leaf: Leaf<'_>| identity(&site.authority.pem, Some(&authority.issue(&leaf)?));
        let refused: [(&str, Arc<ClientConfig>); 6] = [
            ("no_certificate", identity(&site.authority.pem, None)?),
            ("unknown_ca", leaf(&other, Leaf::named(&[WEB]))?),
            ("expired", leaf(&site.authority, Leaf::expired(&[WEB]))?),
            ("not_yet_valid", leaf(&site.authority, Leaf::early(&[WEB]))?),
            ("not_allowed", leaf(&site.authority, Leaf::named(&["DNS:db.shop.svc"]))?),
            // The client does not trust the node.
            ("by_client", identity(&other.pem, None)?),
        ];
        for (reason, identity) in &refused {
            let before = node.metric(&failed(reason))?;
            ensure!(TlsClient::connect(node.address, identity).is_err(), "{name}: {reason} is let in");
            node.wait_for_metric(&failed(reason), |count| count > before)?;
            good.expect(b"mn\r\n", b"MN\r\n")?;
        }
        let by_uri = leaf(&site.authority, Leaf::named(&["DNS:other.shop.svc", "URI:spiffe://shop/web"]))?;
        TlsClient::connect(node.address, &by_uri)?;
        node.wait_for_metric("gannet_connections", |open| open == 1.0)?;
    }
    Ok(())
}

fn failed(reason: &str) -> String {
    format!("gannet_tls_handshakes_total{{reason=\"{reason}\",result=\"failed\"}}")
}

#[test]
fn what_is_not_tls_as_it_should_be_is_refused_and_counted_by_reason() -> Outcome {
    let site = Site::new()?;
    let node = site.node("", "")?;
    let mut good = TlsClient::connect(node.address, &site.web()?)?;
    // A whole record of a handshake that makes no sense, and the beginning of one that ends in the middle.
    let nonsense = [&[0x16, 3, 1, 0, 4][..], b"\x01\x00\x00\x00"].concat();
    let cases: [(&str, &[u8]); 4] = [
        ("version", &hello_of_tls_1_1()),
        ("plaintext", b"get a\r\n"),
        ("protocol", &nonsense),
        ("closed", &[0x16, 3]),
    ];
    for (reason, bytes) in cases {
        let mut client = Client::connect(node.address)?;
        client.send(bytes)?;
        client.finish()?;
        let answer = client.rest()?;
        let is_told = answer == b"SERVER_ERROR this port speaks TLS\r\n";
        ensure!(is_told == (reason == "plaintext"), "{reason}: {}", answer.escape_ascii());
        // Within TLS the reason is told by an alert: record type 21.
        ensure!(reason == "plaintext" || answer.first().is_none_or(|first| *first == 21), "{reason}: no alert");
        node.wait_for_metric(&failed(reason), |count| count == 1.0)?;
        good.expect(b"mn\r\n", b"MN\r\n")?;
    }
    let told = node.status()?.connections.failed_handshakes;
    ensure!(told == 3, "{told} handshakes failed that the client did not merely leave");
    Ok(())
}

/// The first message of a client that knows no newer version: without extensions, as it may be.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.extend(body);
    let mut record = vec![0x16, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

#[test]
fn tls_on_a_port_without_it_is_refused_and_counted() -> Outcome {
    for (name, mode) in MODES {
        let (site, node) = (Site::new()?, Node::start(mode)?);
        let mut good = node.client()?;
        ensure!(TlsClient::connect(node.address, &site.web()?).is_err(), "{name}: TLS is understood");
        node.wait_for_metric("gannet_connections_closed_total{reason=\"tls\"}", |closed| closed == 1.0)?;
        good.expect(b"mn\r\n", b"MN\r\n")?;
    }
    Ok(())
}

#[test]
fn permissive_asks_for_no_certificate_but_for_a_good_one() -> Outcome {
    let site = Site::new()?;
    let node = site.node("", ", mode: Permissive")?;
    let mut anonymous = TlsClient::connect(node.address, &identity(&site.authority.pem, None)?)?;
    node.wait_for_metric("gannet_tls_sessions{identity=\"anonymous\"}", |sessions| sessions == 1.0)?;
    let pair = site.authority.issue(&Leaf::named(&["DNS:db.shop.svc"]))?;
    let other = identity(&site.authority.pem, Some(&pair))?;
    ensure!(TlsClient::connect(node.address, &other).is_err(), "a certificate that is not on the list is let in");
    anonymous.expect(b"mn\r\n", b"MN\r\n")?;
    TlsClient::connect(node.address, &site.web()?)?;
    Ok(())
}

#[test]
fn disabled_is_the_clear() -> Outcome {
    let site = Site::new()?;
    let node = site.node("", ", mode: Disabled")?;
    node.client()?.expect(b"mn\r\n", b"MN\r\n")
}

#[test]
fn a_client_that_stalls_in_the_handshake_holds_up_nobody() -> Outcome {
    let site = Site::new()?;
    let node = site.node("", ", maxHandshakes: 3, handshakeTimeout: 2s")?;
    let web = site.web()?;
    let mut good = TlsClient::connect(node.address, &web)?;
    let stall = |address: SocketAddr| -> Outcome<Client> {
        let mut client = Client::connect(address)?;
        client.send(&[0x16, 3, 1, 2])?;
        Ok(client)
    };
    let mut stalled = vec![stall(node.address)?, stall(node.address)?];
    node.wait_for_metric("gannet_tls_handshakes", |open| open == 2.0)?;
    good.expect(b"mn\r\n", b"MN\r\n")?;
    TlsClient::connect(node.address, &web)?;
    ensure!(node.metric(&failed("timeout"))? < 1.0, "a new client had to wait for those that stall");
    // With all places taken, the next client waits until they are given up, and no longer.
    for _ in 0..5 {
        stalled.push(stall(node.address)?);
    }
    TlsClient::connect(node.address, &web)?;
    good.expect(b"mn\r\n", b"MN\r\n")?;
    for client in &mut stalled {
        ensure!(client.rest().is_ok_and(|rest| rest.is_empty()), "a client that stalled is told something");
    }
    node.wait_for_metric(&failed("timeout"), |count| count == 7.0)?;
    Ok(())
}

/// Where processors are short, requests of those who are in come before those who want in.
#[test]
fn handshakes_step_back() -> Outcome {
    let site = Site::new()?;
    for (node, steps_back) in [(site.node("", "")?, true), (Node::start("")?, false)] {
        // Its thread does that once it runs, which is when somebody was let in.
        if steps_back {
            TlsClient::connect(node.address, &site.web()?)?;
        }
        let (listener, worker) = (niceness(&node, "listener")?, niceness(&node, "worker-0")?);
        ensure!((listener > worker) == steps_back, "the listener's niceness is {listener}, the worker's {worker}");
    }
    Ok(())
}

fn niceness(node: &Node, thread: &str) -> Outcome<i32> {
    for task in fs::read_dir(format!("/proc/{}/task", node.id()))? {
        // Number, name in brackets, state, and so on; the niceness is the 17th behind the name.
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        if let Some((_, fields)) = stat.split_once(&format!(" ({thread}) ")) {
            return Ok(fields.split(' ').nth(16).unwrap_or_default().parse()?);
        }
    }
    Err(Failure::new(format!("there is no thread {thread}")))
}

#[test]
fn clients_come_back_with_a_ticket() -> Outcome {
    for (version, protocol) in VERSIONS {
        let site = Site::new()?;
        let node = site.node("", "")?;
        let pair = site.authority.issue(&Leaf::named(&[WEB]))?;
        let web = identity_of_version(&site.authority.pem, Some(&pair), &[protocol])?;
        ensure!(
            !TlsClient::connect(node.address, &web)?.is_resumed(),
            "TLS {version}: the first connection is resumed"
        );
        for _ in 0..3 {
            ensure!(TlsClient::connect(node.address, &web)?.is_resumed(), "TLS {version}: a connection is not resumed");
        }
        node.wait_for_metric("gannet_tls_handshakes_total{reason=\"\",result=\"resumed\"}", |count| count == 3.0)?;
        ensure!(
            node.metric("gannet_tls_handshake_duration_seconds_count")? > 3.5,
            "{version}: handshakes take no time"
        );
        // Who comes with a ticket is known all the same.
        let status = node.status()?.tls.ok_or_else(|| Failure::new("no TLS in the status"))?;
        let serials = status.identities.first().map(|client| &client.serials);
        ensure!(serials.is_some_and(|serials| serials[0].serial == pair.serial), "{:?}", status.identities);
    }
    Ok(())
}

#[test]
fn clients_are_known_by_name_and_serial() -> Outcome {
    let site = Site::new()?;
    let node = site.node("", "")?;
    let (old, new) = (site.authority.issue(&Leaf::named(&[WEB]))?, site.authority.issue(&Leaf::named(&[WEB]))?);
    let mut clients = Vec::new();
    for pair in [&old, &new, &new] {
        clients.push(TlsClient::connect(node.address, &identity(&site.authority.pem, Some(pair))?)?);
    }
    node.wait_for_metric(&format!("gannet_tls_sessions{{identity=\"{WEB}\"}}"), |sessions| sessions == 3.0)?;
    let status = node.status()?.tls.ok_or_else(|| Failure::new("no TLS in the status"))?;
    ensure!(status.cas == [site.authority.serial.clone()], "{status:?}");
    let issuer = &status.certificate.issuer;
    ensure!(issuer.len() == 64 && status.certificate.not_after > 1_700_000_000, "{status:?}");
    ensure!(status.identities.len() == 1 && status.identities[0].name == WEB, "{status:?}");
    let found: Vec<(&str, u64)> =
        status.identities[0].serials.iter().map(|one| (one.serial.as_str(), one.sessions)).collect();
    ensure!(found == [(old.serial.as_str(), 1), (new.serial.as_str(), 2)], "{status:?}");
    ensure!(status.identities[0].serials.iter().all(|one| one.issuer == *issuer && one.last_seen > 0), "{status:?}");
    clients.clear();
    node.wait_for_metric(&format!("gannet_tls_sessions{{identity=\"{WEB}\"}}"), |sessions| sessions == 0.0)?;
    Ok(())
}

#[test]
fn slow_commands_are_logged_with_the_client_s_name() -> Outcome {
    let site = Site::new()?;
    let node = site.node("slowCommand: 1ms\n", "")?;
    let mut client = TlsClient::connect(node.address, &site.web()?)?;
    eventually(|| {
        client.expect(
            &[&b"mn\r\n".repeat(10_000)[..], b"get slow\r\n"].concat(),
            &[&b"MN\r\n".repeat(10_000)[..], b"END\r\n"].concat(),
        )?;
        ensure!(node.metric("gannet_slow_commands_total")? > 0.0, "no command was slow");
        Ok(())
    })?;
    node.wait_for_log(&format!("identity=\"{WEB}\"")).map(drop)
}

#[test]
fn a_connection_above_the_limit_is_closed_and_counted() -> Outcome {
    let site = Site::new()?;
    let node = site.node("maxConnections: 2\n", "")?;
    let web = site.web()?;
    let mut clients = [TlsClient::connect(node.address, &web)?, TlsClient::connect(node.address, &web)?];
    ensure!(TlsClient::connect(node.address, &web).is_err(), "a third client is let in");
    node.wait_for_metric("gannet_connections_refused_total", |refused| refused >= 1.0)?;
    for client in &mut clients {
        client.expect(b"mn\r\n", b"MN\r\n")?;
    }
    drop(clients);
    eventually(|| TlsClient::connect(node.address, &web).map(drop))
}

#[test]
fn connections_of_age_are_closed_between_requests() -> Outcome {
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(mode, ", maxConnectionAge: 1s")?;
        let web = site.web()?;
        let mut idle = TlsClient::connect(node.address, &web)?;
        // In the middle of a request when its time comes.
        let mut busy = TlsClient::connect(node.address, &web)?;
        busy.send(b"set a 0 0 5\r\nval")?;
        ensure!(idle.rest()?.is_empty(), "{name}: an idle connection is closed with words");
        node.wait_for_metric("gannet_connections_closed_total{reason=\"age\"}", |closed| closed >= 1.0)?;
        busy.expect(b"ue\r\n", b"STORED\r\n")?;
        ensure!(busy.rest()?.is_empty(), "{name}: a busy connection is closed with words");
        node.wait_for_metric("gannet_connections_closed_total{reason=\"age\"}", |closed| closed == 2.0)?;
    }
    Ok(())
}

/// Whoever sends on while the connection ends gets an answer to the last request that was taken, and then the end: the node
/// has read all that came, or the system would have reset the connection.
#[test]
fn no_reply_is_lost_when_a_connection_ends() -> Outcome {
    const CONNECTIONS: usize = 10;
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(mode, ", maxConnectionAge: 1s")?;
        let web = site.web()?;
        let flood = || flood(&mut TlsClient::connect(node.address, &web)?);
        let answers = thread::scope(|scope| {
            let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(flood)).collect();
            let join = |client: ScopedJoinHandle<'_, Outcome<Vec<u8>>>| {
                client.join().unwrap_or_else(|_| Err(Failure::new("a client panicked")))
            };
            clients.into_iter().map(join).collect::<Outcome<Vec<_>>>()
        });
        for answer in answers.map_err(|failure| failure.while_doing(name))? {
            let replies = answer.len() / REPLY.len();
            ensure!(replies > 0 && answer == REPLY.repeat(replies), "{name}: a reply is cut off or another");
        }
        node.wait_for_metric("gannet_connections_closed_total{reason=\"age\"}", |closed| closed == CONNECTIONS as f64)?;
    }
    Ok(())
}

const REPLY: &[u8] = b"MN\r\n";

/// Sends requests without waiting for their replies until the server says that it is done; returns all that it answered.
fn flood(client: &mut TlsClient) -> Outcome<Vec<u8>> {
    let (session, socket) = client.parts();
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    let mut answers = Vec::new();
    loop {
        session.writer().write_all(&b"mn\r\n".repeat(100))?;
        while session.wants_write() {
            session.write_tls(socket)?;
        }
        match session.read_tls(socket) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            read => read?,
        };
        session.process_new_packets()?;
        match session.reader().read_to_end(&mut answers) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return Ok(read.map(|_| answers)?),
        }
    }
}

#[test]
fn a_session_ends_with_the_certificate_that_it_stands_on() -> Outcome {
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(mode, ", maxConnectionAge: 0s")?;
        let soon = Leaf { not_after: SystemTime::now() + Duration::from_secs(3), ..Leaf::named(&[WEB]) };
        let short = identity(&site.authority.pem, Some(&site.authority.issue(&soon)?))?;
        let mut stays = TlsClient::connect(node.address, &site.web()?)?;
        let mut idle = TlsClient::connect(node.address, &short)?;
        let mut busy = TlsClient::connect(node.address, &short)?;
        busy.send(b"set a 0 0 5\r\nval")?;
        ensure!(idle.rest()?.is_empty(), "{name}: an idle connection is closed with words");
        busy.expect(b"ue\r\n", b"STORED\r\n")?;
        ensure!(busy.rest()?.is_empty(), "{name}: a busy connection is closed with words");
        node.wait_for_metric("gannet_connections_closed_total{reason=\"expired\"}", |closed| closed == 2.0)?;
        // By certificate and by ticket alike.
        ensure!(TlsClient::connect(node.address, &short).is_err(), "{name}: an expired certificate is let in");
        node.wait_for_metric(&failed("expired"), |count| count == 1.0)?;
        stays.expect(b"mn\r\n", b"MN\r\n")?;
    }
    Ok(())
}

/// A client that asks for much and reads nothing, while others are served; it gets all of it once it reads.
#[test]
fn a_slow_reader_loses_nothing() -> Outcome {
    const LENGTH: usize = 100_000;
    const REQUESTS: usize = 300;
    for (name, mode) in MODES {
        let site = Site::new()?;
        let node = site.node(&format!("{mode}bufferMemory: 2Mi\n"), "")?;
        let web = site.web()?;
        let mut other = TlsClient::connect(node.address, &web)?;
        let value = vec![b'x'; LENGTH];
        other.send(&[format!("set k 0 0 {LENGTH}\r\n").as_bytes(), &value, b"\r\n"].concat())?;
        other.expect_answer(b"STORED\r\n")?;
        let mut slow = TlsClient::connect(node.address, &web)?;
        slow.send(&b"get k\r\n".repeat(REQUESTS))?;
        node.wait_for_metric("gannet_sent_bytes_total", |sent| sent > LENGTH as f64)?;
        other.expect(b"mn\r\n", b"MN\r\n")?;
        let answer = [format!("VALUE k 0 {LENGTH}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
        for _ in 0..REQUESTS {
            slow.expect_answer(&answer).map_err(|failure| failure.while_doing(name))?;
        }
        drop((slow, other));
        node.wait_for_metric("gannet_connections", |open| open == 0.0)?;
    }
    Ok(())
}

/// The beginning of a record is kept, and costs no more than its bytes; none is kept between two records.
#[test]
fn half_a_record_is_kept_and_counted() -> Outcome {
    let site = Site::new()?;
    let node = site.node("bufferMemory: 2Mi\n", "")?;
    let mut client = TlsClient::connect(node.address, &site.web()?)?;
    let idle = node.metric("gannet_memory_bytes{part=\"buffers\"}")?;
    let (session, socket) = client.parts();
    session.writer().write_all(&[&b"set a 0 0 10000\r\n"[..], &[b'x'; 10_000], b"\r\n"].concat())?;
    let mut record = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut record)?;
    }
    let (half, rest) = record.split_at(9_000);
    socket.write_all(half)?;
    node.wait_for_metric("gannet_memory_bytes{part=\"buffers\"}", |bytes| bytes >= idle + 9_000.0)?;
    socket.write_all(rest)?;
    client.expect_answer(b"STORED\r\n")?;
    node.wait_for_metric("gannet_memory_bytes{part=\"buffers\"}", |bytes| bytes <= idle)?;
    Ok(())
}

/// A message after the handshake that ends in the middle, and then the end: the node must neither wait nor break.
#[test]
fn the_end_within_a_message_is_the_end_of_that_client_alone() -> Outcome {
    let site = Site::new()?;
    let node = site.node("", "")?;
    let web = site.web()?;
    let mut good = TlsClient::connect(node.address, &web)?;
    for length in [1, 3, 5, 6, 20] {
        let mut client = TlsClient::connect(node.address, &web)?;
        let (session, socket) = client.parts();
        session.writer().write_all(b"get a\r\nget b\r\n")?;
        let mut record = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut record)?;
        }
        socket.write_all(&record[..length])?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest)?;
        good.expect(b"mn\r\n", b"MN\r\n")?;
    }
    node.wait_for_metric("gannet_connections", |open| open == 1.0)?;
    Ok(())
}
