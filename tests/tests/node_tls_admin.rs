//! The admin port within TLS: who is let in, and who is not.

use std::sync::Arc;

use rustls::ClientConfig;
use tests::ensure;
use tests::failure::Outcome;
use tests::node::{Client, Node, argument, eventually, http};
use tests::secret::{Authority, Leaf, Secret};
use tests::tls::{TlsClient, https, identity};

const OPERATOR: &str = "URI:spiffe://gannet/operator";

struct Site {
    authority: Authority,
    secret: Secret,
}

impl Site {
    fn new() -> Outcome<Site> {
        let authority = Authority::new("admin")?;
        let secret = Secret::mount(&[])?;
        let site = Site { authority, secret };
        site.write(&format!("{OPERATOR}\n"))?;
        Ok(site)
    }

    fn write(&self, identities: &str) -> Outcome<String> {
        let pair = self.authority.node()?;
        let files = [
            ("ca.crt", &*self.authority.pem),
            ("node.crt", &pair.certificate),
            ("node.key", &pair.key),
            ("identities", identities),
        ];
        self.secret.replace(&files)?;
        Ok(pair.serial)
    }

    fn lines(&self) -> String {
        format!("drainDelay: 0s\nadminTls: {{directory: {}, name: node}}\n", argument(self.secret.path()))
    }

    fn client(&self, name: &str) -> Outcome<Arc<ClientConfig>> {
        identity(&self.authority.pem, Some(&self.authority.issue(&Leaf::named(&[name]))?))
    }
}

#[test]
fn who_is_on_the_list_may_look_and_drain() -> Outcome {
    let site = Site::new()?;
    let mut node = Node::start(&site.lines())?;
    let operator = site.client(OPERATOR)?;
    let (status, text) = https(node.admin, &operator, "GET", "/status")?;
    let told: config::Status = serde_json::from_str(&text)?;
    ensure!(status == 200 && told.phase == config::Phase::Serving && told.tls.is_none(), "{status}: {text}");
    let (status, text) = https(node.admin, &operator, "GET", "/metrics")?;
    ensure!(status == 200 && text.contains("gannet_tls_reloads_total{port=\"admin\"} 0"), "{status}: {text}");
    let (status, text) = https(node.admin, &operator, "POST", "/drain")?;
    ensure!(status == 202, "/drain answers {status}: {text}");
    ensure!(node.wait()?.code() == Some(0), "a drained node ends with an error");
    Ok(())
}

#[test]
fn who_is_not_learns_nothing() -> Outcome {
    let site = Site::new()?;
    let node = Node::start(&site.lines())?;
    let other = Authority::new("admin")?;
    let stranger = identity(&site.authority.pem, Some(&other.issue(&Leaf::named(&[OPERATOR]))?))?;
    let expired = identity(&site.authority.pem, Some(&site.authority.issue(&Leaf::expired(&[OPERATOR]))?))?;
    for (who, identity) in [
        ("who shows no certificate", identity(&site.authority.pem, None)?),
        ("who is not on the list", site.client("DNS:web.shop.svc")?),
        ("whose CA is another", stranger),
        ("whose certificate has expired", expired),
    ] {
        for (method, path) in [("GET", "/status"), ("GET", "/metrics"), ("POST", "/drain")] {
            ensure!(https(node.admin, &identity, method, path).is_err(), "{who} is answered to {method} {path}");
        }
    }
    // Not in the clear either, and from the loopback address as little.
    ensure!(http(node.admin, "POST", "/drain").is_err(), "a drain in the clear is answered");
    for path in ["/status", "/metrics", "/drain"] {
        ensure!(http(node.health, "GET", path)?.0 == 404, "the health port answers {path}");
    }
    let (status, text) = http(node.health, "GET", "/readyz")?;
    ensure!((status, text.as_str()) == (200, "ready\n"), "the health port answers {status}: {text}");
    Ok(())
}

#[test]
fn a_scraper_that_stalls_holds_up_no_other() -> Outcome {
    let site = Site::new()?;
    let node = Node::start(&site.lines())?;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(node.admin)?;
        client.send(&[0x16, 3])?;
        stalled.push(client);
    }
    ensure!(https(node.admin, &site.client(OPERATOR)?, "GET", "/status")?.0 == 200, "the operator is not answered");
    Ok(())
}

#[test]
fn its_files_are_taken_over_too() -> Outcome {
    let site = Site::new()?;
    let node = Node::start(&site.lines())?;
    let (operator, monitoring) = (site.client(OPERATOR)?, site.client("DNS:monitoring.svc")?);
    ensure!(
        https(node.admin, &monitoring, "GET", "/metrics").is_err(),
        "monitoring is let in before it is on the list"
    );
    site.write(&format!("{OPERATOR}\nDNS:monitoring.svc\n"))?;
    eventually(|| https(node.admin, &monitoring, "GET", "/metrics").map(drop))?;
    site.write("DNS:monitoring.svc\n")?;
    eventually(|| {
        ensure!(https(node.admin, &operator, "GET", "/status").is_err(), "who has left the list is let in");
        Ok(())
    })?;
    let (_, text) = https(node.admin, &monitoring, "GET", "/metrics")?;
    ensure!(text.contains("gannet_tls_reloads_total{port=\"admin\"} 2"), "{text}");
    Ok(())
}

/// Data port and admin port have CAs of their own: neither lets in whom the other knows.
#[test]
fn the_two_ports_trust_their_own_ca_alone() -> Outcome {
    let (site, data) = (Site::new()?, Authority::new("admin")?);
    let pair = data.node()?;
    let secret = Secret::mount(&[("ca.crt", &*data.pem), ("node.crt", &pair.certificate), ("node.key", &pair.key)])?;
    let tls = format!("{}tls: {{directory: {}, name: node}}\n", site.lines(), argument(secret.path()));
    let node = Node::start(&tls)?;
    let both = format!("{}{}", data.pem, site.authority.pem);
    let web = identity(&both, Some(&data.issue(&Leaf::named(&[OPERATOR]))?))?;
    let operator = identity(&both, Some(&site.authority.issue(&Leaf::named(&[OPERATOR]))?))?;
    TlsClient::connect(node.address, &web)?;
    ensure!(TlsClient::connect(node.address, &operator).is_err(), "the operator is a client of the cache");
    ensure!(https(node.admin, &web, "GET", "/status").is_err(), "a client of the cache sees the status");
    let (_, text) = https(node.admin, &operator, "GET", "/status")?;
    let told: config::Status = serde_json::from_str(&text)?;
    ensure!(told.tls.is_some_and(|tls| tls.certificate.serial == pair.serial), "{text}");
    Ok(())
}
