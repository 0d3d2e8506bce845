//! The files of a mounted secret: good ones are taken over, others never hurt, and those who are no longer let in go.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use config::TlsStatus;
use rustls::ClientConfig;
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Node, argument, eventually, folder, http, run_to_end};
use tests::secret::{Authority, Leaf, Pair, Secret};
use tests::tls::{TlsClient, identity};

const WEB: &str = "DNS:web.shop.svc";
const DB: &str = "DNS:db.shop.svc";

fn files<'a>(ca: &'a str, pair: &'a Pair) -> [(&'a str, &'a str); 3] {
    [("ca.crt", ca), ("node.crt", &pair.certificate), ("node.key", &pair.key)]
}

fn start(lines: &str, secret: &Secret) -> Outcome<Node> {
    Node::start(&format!("{lines}tls: {{directory: {}, name: node}}\n", argument(secret.path())))
}

fn client(authority: &Authority, trusted: &str, name: &str) -> Outcome<Arc<ClientConfig>> {
    identity(trusted, Some(&authority.issue(&Leaf::named(&[name]))?))
}

fn status(node: &Node) -> Outcome<TlsStatus> {
    node.status()?.tls.ok_or_else(|| Failure::new("no TLS in the status"))
}

/// Names and contents.
type Files = Vec<(String, String)>;

/// Files that are of no use, by the reason that is given for them.
fn bad_files(authority: &Authority, good: &Pair) -> Outcome<Vec<(&'static str, Files)>> {
    let other = Authority::new("data")?;
    let (ca, stranger) = (authority.pem.as_str(), other.node()?);
    let expired = authority.issue(&Leaf::expired(&["127.0.0.1"]))?;
    let early = authority.issue(&Leaf::early(&["127.0.0.1"]))?;
    let short = |text: &str| text[..text.len() / 2].to_owned();
    let mismatched = Pair { key: stranger.key.clone(), ..good.clone() };
    let own = |files: [(&str, &str); 3]| files.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
    let truncated = Pair { certificate: short(&good.certificate), ..good.clone() };
    let short_key = Pair { key: short(&good.key), ..good.clone() };
    let mut listed = own(files(ca, good));
    listed.push(("identities".to_owned(), "web.shop.svc\n".to_owned()));
    Ok(vec![
        ("key_mismatch", own(files(ca, &mismatched))),
        ("expired", own(files(ca, &expired))),
        ("not_yet_valid", own(files(ca, &early))),
        ("wrong_chain", own(files(ca, &stranger))),
        ("empty", own(files("", good))),
        ("malformed", own(files(&short(ca), good))),
        ("malformed", own(files(ca, &truncated))),
        ("malformed", own(files(ca, &short_key))),
        ("malformed", own(files("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good))),
        ("malformed", listed),
        ("missing", own(files(ca, good))[..1].to_vec()),
        ("missing", own(files(ca, good))[1..].to_vec()),
        ("missing", Vec::new()),
    ])
}

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

#[test]
fn bad_files_leave_the_last_good_ones_in_use() -> Outcome {
    let authority = Authority::new("data")?;
    let mut pair = authority.node()?;
    let secret = Secret::mount(&files(&authority.pem, &pair))?;
    let node = start("", &secret)?;
    let web = client(&authority, &authority.pem, WEB)?;
    let mut standing = TlsClient::connect(node.address, &web)?;
    for (reason, bad) in bad_files(&authority, &pair)? {
        let metric = format!("gannet_tls_reload_failures_total{{port=\"data\",reason=\"{reason}\"}}");
        let before = node.metric(&metric).unwrap_or(0.0);
        secret.replace(&borrowed(&bad))?;
        eventually(|| {
            let count = node.metric(&metric)?;
            ensure!(count > before, "{metric} is {count}");
            Ok(())
        })?;
        let told = status(&node)?;
        let words = told.last_failure.clone().unwrap_or_default();
        ensure!(words.contains(argument(secret.path())), "{reason}: the status does not name the file: {words}");
        ensure!(told.failures.get(reason).is_some_and(|count| *count > 0), "{reason}: {told:?}");
        ensure!(told.certificate.serial == pair.serial, "{reason}: another certificate is served");
        TlsClient::connect(node.address, &web).map_err(|failure| failure.while_doing(reason))?;
        standing.expect(b"mn\r\n", b"MN\r\n")?;
        // Good ones are taken over, whatever was there before.
        pair = authority.node()?;
        secret.replace(&files(&authority.pem, &pair))?;
        eventually(|| {
            let told = status(&node)?;
            ensure!(told.certificate.serial == pair.serial && told.last_failure.is_none(), "{told:?}");
            Ok(())
        })?;
    }
    ensure!(node.metric("gannet_tls_reloads_total{port=\"data\"}")? > 12.5, "reloads are not counted");
    standing.expect(b"mn\r\n", b"MN\r\n")
}

/// A folder that is written file by file, as no secret is: what does not fit together is not used, and the end is.
#[test]
fn files_that_change_one_by_one_are_taken_over_when_they_fit() -> Outcome {
    let authority = Authority::new("data")?;
    let (old, new) = (authority.node()?, authority.node()?);
    let folder = folder()?;
    for (name, text) in files(&authority.pem, &old) {
        fs::write(folder.join(name), text)?;
    }
    let node = Node::start(&format!("tls: {{directory: {}, name: node}}\n", argument(&folder)))?;
    let web = client(&authority, &authority.pem, WEB)?;
    fs::write(folder.join("node.crt"), &new.certificate)?;
    node.wait_for_log("is not the key to")?;
    TlsClient::connect(node.address, &web)?;
    ensure!(status(&node)?.certificate.serial == old.serial, "half a pair is served");
    fs::write(folder.join("node.key"), &new.key)?;
    eventually(|| {
        ensure!(status(&node)?.certificate.serial == new.serial, "the new pair is not served");
        Ok(())
    })?;
    // All of it goes: the folder too.
    fs::remove_dir_all(&folder)?;
    node.wait_for_log("ca.crt: is not there")?;
    TlsClient::connect(node.address, &web).map(drop)
}

#[test]
fn a_node_with_bad_files_does_not_start_and_says_why() -> Outcome {
    let authority = Authority::new("data")?;
    let pair = authority.node()?;
    for (reason, bad) in bad_files(&authority, &pair)? {
        let has_bundle = bad.iter().any(|(name, _)| name == "ca.crt");
        if reason == "missing" && has_bundle {
            continue;
        }
        let secret = Secret::mount(&borrowed(&bad))?;
        for (section, more) in [("tls", ""), ("adminTls", "admin: 127.0.0.1:0\n")] {
            let path = argument(secret.path());
            let text = format!("listen: 127.0.0.1:0\n{more}{section}: {{directory: {path}, name: node}}\n");
            let file = folder()?.join("cache-node.yaml");
            fs::write(&file, text)?;
            let (status, log) = run_to_end(&["--config", argument(&file)])?;
            ensure!(status.code() == Some(1), "{section}: {reason}: ends with {status}: {log}");
            ensure!(log.contains(path), "{section}: {reason}: refused without naming a file: {log}");
            fs::remove_dir_all(file.parent().unwrap_or(&file))?;
        }
    }
    Ok(())
}

#[test]
fn a_node_whose_pair_is_not_there_waits_and_says_for_what() -> Outcome {
    let authority = Authority::new("data")?;
    let secret = Secret::mount(&[("ca.crt", &authority.pem)])?;
    let lines = format!("tls: {{directory: {}, name: node}}\n", argument(secret.path()));
    let mut node = Node::launch(&lines, &[])?;
    let waits = |node: &Node| {
        eventually(|| {
            let (status, text) = http(node.health, "GET", "/readyz")?;
            let is_told = ["node.crt", "node.key", argument(secret.path())].iter().all(|word| text.contains(word));
            ensure!(status == 503 && is_told, "/readyz answers {status}: {text}");
            Ok(())
        })
    };
    waits(&node)?;
    ensure!(http(node.health, "GET", "/livez")?.0 == 200, "a waiting node is not live");
    node.wait_for_log("not ready: waiting")?;
    let pair = authority.node()?;
    secret.replace(&files(&authority.pem, &pair))?;
    node.wait_until_it_serves()?;
    ensure!(http(node.health, "GET", "/readyz")?.0 == 200, "the node is not ready");
    TlsClient::connect(node.address, &client(&authority, &authority.pem, WEB)?)?;
    // One that waits ends when it is told to.
    secret.replace(&[("ca.crt", &authority.pem)])?;
    let mut node = Node::launch(&lines, &[])?;
    waits(&node)?;
    node.signal("TERM")?;
    ensure!(node.wait()?.code() == Some(0), "a waiting node that is told to end ends with an error");
    Ok(())
}

#[test]
fn shrinking_trust_closes_what_is_no_longer_let_in() -> Outcome {
    for (name, mode) in MODES {
        let (old, new) = (Authority::new("data")?, Authority::new("data")?);
        let pair = new.node()?;
        let both = format!("{}{}", old.pem, new.pem);
        let secret = Secret::mount(&files(&both, &pair))?;
        let node = start(mode, &secret)?;
        let (from_old, from_new) = (client(&old, &both, WEB)?, client(&new, &both, WEB)?);
        let mut leaves = TlsClient::connect(node.address, &from_old)?;
        let mut stays = TlsClient::connect(node.address, &from_new)?;
        ensure!(TlsClient::connect(node.address, &from_old)?.is_resumed(), "{name}: no ticket was of use");
        let issuers: Vec<String> =
            status(&node)?.identities.iter().flat_map(|one| &one.serials).map(|one| one.issuer.clone()).collect();
        ensure!(issuers.len() == 2 && issuers[0] != issuers[1], "{name}: two CAs of one name are one: {issuers:?}");
        secret.replace(&files(&new.pem, &pair))?;
        leaves.rest().map_err(|failure| failure.while_doing(format!("{name}: the old CA's connection")))?;
        node.wait_for_metric("gannet_connections_closed_total{reason=\"untrusted\"}", |closed| closed == 1.0)?;
        // Neither with its ticket nor with its certificate.
        for _ in 0..3 {
            ensure!(TlsClient::connect(node.address, &from_old).is_err(), "{name}: the old CA's client is let in");
        }
        stays.expect(b"mn\r\n", b"MN\r\n")?;
        TlsClient::connect(node.address, &from_new)?;
        node.wait_for_metric("gannet_tls_handshakes_total{reason=\"unknown_ca\",result=\"failed\"}", |count| {
            count == 3.0
        })?;
        // It may come back as soon as it is trusted again.
        secret.replace(&files(&both, &pair))?;
        eventually(|| TlsClient::connect(node.address, &from_old).map(drop))?;
    }
    Ok(())
}

#[test]
fn a_name_that_leaves_the_list_leaves_the_node() -> Outcome {
    for (name, mode) in MODES {
        let authority = Authority::new("data")?;
        let pair = authority.node()?;
        let with = |list: &'static str| -> Vec<(&str, &str)> {
            files(&authority.pem, &pair).into_iter().chain([("identities", list)]).collect()
        };
        let secret = Secret::mount(&with("DNS:web.shop.svc\nDNS:db.shop.svc\n"))?;
        let node = start(mode, &secret)?;
        let (web, db) = (client(&authority, &authority.pem, WEB)?, client(&authority, &authority.pem, DB)?);
        let (mut stays, mut leaves) = (TlsClient::connect(node.address, &web)?, TlsClient::connect(node.address, &db)?);
        // In the middle of a request: it is not trusted, and so not waited for.
        leaves.send(b"set a 0 0 5\r\nval")?;
        secret.replace(&with("DNS:web.shop.svc\n"))?;
        leaves.rest().map_err(|failure| failure.while_doing(name))?;
        ensure!(TlsClient::connect(node.address, &db).is_err(), "{name}: who is not on the list is let in");
        node.wait_for_metric("gannet_tls_handshakes_total{reason=\"not_allowed\",result=\"failed\"}", |count| {
            count >= 1.0
        })?;
        stays.expect(b"mn\r\n", b"MN\r\n")?;
        // An empty list is a list.
        secret.replace(&with(""))?;
        stays.rest().map_err(|failure| failure.while_doing(name))?;
        ensure!(TlsClient::connect(node.address, &web).is_err(), "{name}: an empty list lets somebody in");
    }
    Ok(())
}

#[test]
fn renewal_and_growing_trust_disturb_nobody() -> Outcome {
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let pair = old.node()?;
    let secret = Secret::mount(&files(&old.pem, &pair))?;
    let node = start("", &secret)?;
    let both = format!("{}{}", old.pem, new.pem);
    let web = client(&old, &both, WEB)?;
    let mut standing = TlsClient::connect(node.address, &web)?;
    let bundle = status(&node)?.bundle;
    secret.replace(&files(&both, &pair))?;
    eventually(|| {
        let told = status(&node)?;
        ensure!(told.cas == [old.serial.clone(), new.serial.clone()] && told.bundle != bundle, "{told:?}");
        Ok(())
    })?;
    let renewed = new.node()?;
    secret.replace(&files(&both, &renewed))?;
    eventually(|| {
        ensure!(status(&node)?.certificate.serial == renewed.serial, "the renewed certificate is not served");
        Ok(())
    })?;
    let expiry = node.metric("gannet_tls_certificate_not_after_seconds{port=\"data\"}")?;
    ensure!(expiry == status(&node)?.certificate.not_after as f64, "the metric tells {expiry}");
    ensure!(TlsClient::connect(node.address, &web)?.is_resumed(), "a ticket was lost with a renewal");
    TlsClient::connect(node.address, &client(&new, &both, WEB)?)?;
    standing.expect(b"mn\r\n", b"MN\r\n")
}

/// Connections are made all the time while pair and bundle change; each of them is let in.
#[test]
fn reloads_under_load_fail_no_handshake() -> Outcome {
    const RELOADS: u64 = 5;
    for (name, mode) in MODES {
        let authority = Authority::new("data")?;
        let secret = Secret::mount(&files(&authority.pem, &authority.node()?))?;
        let node = start(mode, &secret)?;
        let (ended, made) = (AtomicBool::new(false), AtomicU64::new(0));
        let web = client(&authority, &authority.pem, WEB)?;
        thread::scope(|scope| {
            let connects = scope.spawn(|| -> Outcome {
                let mut kept = TlsClient::connect(node.address, &web)?;
                while !ended.load(Ordering::Relaxed) {
                    let fresh = client(&authority, &authority.pem, WEB)?;
                    TlsClient::connect(node.address, &fresh)?;
                    TlsClient::connect(node.address, &fresh)?;
                    kept.expect(b"mn\r\n", b"MN\r\n")?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let reloaded = (0..RELOADS).try_for_each(|number| {
                let pair = authority.node()?;
                let other = Authority::new("other")?;
                let bundle = format!("{}{}", authority.pem, if number % 2 == 0 { &other.pem } else { "" });
                let before = made.load(Ordering::Relaxed);
                secret.replace(&files(&bundle, &pair))?;
                eventually(|| {
                    ensure!(status(&node)?.certificate.serial == pair.serial, "a pair is not taken over");
                    ensure!(made.load(Ordering::Relaxed) > before + 2, "no connections are made meanwhile");
                    Ok(())
                })
            });
            ended.store(true, Ordering::Relaxed);
            let connected = connects.join().unwrap_or_else(|_| Err(Failure::new("the client panicked")));
            connected.and(reloaded).map_err(|failure| failure.while_doing(name))
        })?;
        ensure!(node.metric("gannet_tls_reloads_total{port=\"data\"}")? >= RELOADS as f64, "{name}: too few reloads");
        let told = status(&node)?;
        ensure!(told.failures.is_empty(), "{name}: {told:?}");
    }
    Ok(())
}

/// `..data` that points nowhere for a moment, as after a crash of whoever writes it.
#[test]
fn a_folder_without_a_moment_is_an_error_and_not_the_end() -> Outcome {
    let authority = Authority::new("data")?;
    let pair = authority.node()?;
    let secret = Secret::mount(&files(&authority.pem, &pair))?;
    let node = start("", &secret)?;
    let data = secret.path().join("..data");
    let moment = fs::read_link(&data)?;
    fs::remove_file(&data)?;
    node.wait_for_log("ca.crt: is not there")?;
    let web = client(&authority, &authority.pem, WEB)?;
    TlsClient::connect(node.address, &web)?;
    symlink(moment, &data)?;
    eventually(|| {
        ensure!(status(&node)?.last_failure.is_none(), "the files are back, and still missed");
        Ok(())
    })?;
    TlsClient::connect(node.address, &web)?;
    Client::connect(node.address).map(drop)
}
