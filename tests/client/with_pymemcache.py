"""What an application does with pymemcache; ends with an error at the first answer that is not what it should be."""

import sys
import time

from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheClientError

PATIENCE = 30


def check(found, expected):
    if found != expected:
        sys.exit(f"line {sys._getframe(1).f_lineno}: {found!r} instead of {expected!r}")


def use(client):
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
    check(client.set("short", b"lived", expire=1), True)
    expires(lambda: client.get("short"))


def expires(get):
    end = time.monotonic() + PATIENCE
    while get() is not None:
        if time.monotonic() > end:
            sys.exit("an item outlives its time")
        time.sleep(0.05)


for make in (Client, PooledClient):
    client = make(("127.0.0.1", int(sys.argv[1])), default_noreply=False, timeout=PATIENCE, no_delay=True)
    use(client)
    client.close()
