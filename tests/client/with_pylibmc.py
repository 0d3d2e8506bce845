"""What an application does with pylibmc, and so with libmemcached, by the text protocol; ends with an error at the first
answer that is not what it should be."""

import sys
import time

import pylibmc

PATIENCE = 30


def check(found, expected):
    if found != expected:
        sys.exit(f"line {sys._getframe(1).f_lineno}: {found!r} instead of {expected!r}")


def refused(call, *arguments):
    try:
        call(*arguments)
        return False
    except pylibmc.NotFound:
        return True


def use(client):
    check(client.flush_all(), True)
    check(client.set("key", b"value", time=100), True)
    check(client.get("key"), b"value")
    check(client.get("none"), None)
    check(client.add("key", b"other"), False)
    check(client.replace("none", b"other"), False)
    check(client.append("key", b"+"), True)
    check(client.prepend("key", b"-"), True)
    value, cas = client.gets("key")
    check(value, b"-value+")
    check(client.cas("key", b"new", cas), True)
    check(client.cas("key", b"newer", cas), False)
    # Numbers and other objects travel with flags of the client's own.
    check(client.set("number", 7), True)
    check(client.get("number"), 7)
    check(client.incr("number", 3), 10)
    check(client.decr("number", 20), 0)
    check(refused(client.incr, "none", 1), True)
    check(client.set("object", {"a": [1, 2.5, None]}), True)
    check(client.get("object"), {"a": [1, 2.5, None]})
    check(client.touch("key", 50), True)
    check(client.touch("none", 50), False)
    many = {f"key{n}": b"x" * n for n in range(0, 5000, 50)}
    check(client.set_multi(many), [])
    check(client.get_multi(list(many) + ["none"]), many)
    check(client.delete_multi(list(many)), True)
    check(client.get_multi(list(many)), {})
    check(client.delete("key"), True)
    check(client.delete("key"), False)
    check(client.set("large", b"x" * 1_000_000), True)
    check(len(client.get("large")), 1_000_000)
    ((_, stats),) = client.get_stats()
    check(stats["version"].startswith(b"1.6.18-gannet-"), True)
    check(client.set("short", b"lived", time=1), True)
    end = time.monotonic() + PATIENCE
    while client.get("short") is not None:
        if time.monotonic() > end:
            sys.exit("an item outlives its time")
        time.sleep(0.05)


for behaviors in ({"cas": True}, {"cas": True, "tcp_nodelay": True, "no_block": True}):
    use(pylibmc.Client([f"127.0.0.1:{sys.argv[1]}"], binary=False, behaviors=behaviors))
