//! Clients that others have written, unchanged, against a node.

use std::env;
use std::process::Command;

use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{MODES, Node};

/// What an application does with pymemcache; it ends with an error at the first answer that is not what it should be.
const PYMEMCACHE: &str = r#"
import sys
from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheClientError
address = ("127.0.0.1", int(sys.argv[1]))
def check(found, expected):
    if found != expected:
        sys.exit(f"line {sys._getframe(1).f_lineno}: {found!r} instead of {expected!r}")
for make in (Client, PooledClient):
    client = make(address, default_noreply=False, timeout=30, no_delay=True)
    check(client.flush_all(), True)
    check(client.set("key", b"value", expire=100, flags=7), True)
    check(client.get("key"), b"value")
    check(client.get("none", "default"), "default")
    check(client.add("key", b"other"), False)
    check(client.replace("none", b"other"), False)
    check(client.append("key", b"+"), True)
    check(client.prepend("key", b"-"), True)
    value, cas = client.gets("key")
    check(value, b"-value+")
    check(client.cas("key", b"new", cas), True)
    check(client.cas("key", b"newer", cas), False)
    check(client.cas("none", b"newer", cas), None)
    check(client.set("number", b"007"), True)
    check(client.incr("number", 3), 10)
    check(client.decr("number", 20), 0)
    check(client.incr("none", 1), None)
    check(client.touch("key", expire=50), True)
    many = {f"key{n}": b"x" * n for n in range(0, 5000, 50)}
    check(client.set_many(many), [])
    check(client.get_many(list(many) + ["none"]), many)
    check(client.delete_many(list(many)), True)
    check(client.get_many(list(many)), {})
    check(client.delete("key"), True)
    check(client.delete("key"), False)
    check(client.set("large", b"x" * 1_000_000), True)
    check(len(client.get("large")), 1_000_000)
    check(client.stats()[b"curr_items"], 2)
    check(client.version().startswith(b"1.6.18-gannet-"), True)
    try:
        client.incr("large", 1)
        sys.exit("a large value was counted up")
    except MemcacheClientError:
        pass
    check(client.set("key", b"quiet", noreply=True), True)
    check(client.get("key"), b"quiet")
    client.close()
"#;

#[test]
fn pymemcache_finds_what_it_expects() -> Outcome {
    let python = env::var_os("GANNET_PYTHON").ok_or_else(|| {
        Failure::new("GANNET_PYTHON does not name a Python that has pymemcache; tests/run node sets it up")
    })?;
    for (name, mode) in MODES {
        let node = Node::start(mode)?;
        let port = node.address.port().to_string();
        let output = Command::new(&python).args(["-c", PYMEMCACHE, &port]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn memccapable_finds_a_server_that_it_knows() -> Outcome {
    for (name, mode) in MODES {
        let node = Node::start(mode)?;
        let port = node.address.port().to_string();
        let mut command = Command::new("memccapable");
        let output = command.args(["-a", "-h", "127.0.0.1", "-p", &port]).output().map_err(|error| {
            let remedy = "install it with `apt-get install libmemcached-tools`";
            Failure::new(format!("memccapable cannot be run ({error}): {remedy}"))
        })?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(output.status.success() && said.contains("All tests passed"), "{name}: {said}");
    }
    Ok(())
}
