"""Fills one node until it evicts, with values of many sizes over many connections, and reads some of it back.

usage: fill.py CONNECTIONS HOST:PORT

Prints the node's own statistics as JSON: {"curr_items": N, "evictions": N}.
"""

import json
import sys
from pathlib import Path

from pymemcache.client.base import Client

sys.path.append(str(Path(__file__).parents[2] / "deploy/local/client"))
import names  # noqa: E402

SIZES = (10, 100, 1_000, 10_000, 100_000, 900_000)
# Each round writes about a megabyte for every connection: far more in all than a small node has.
MOST_ROUNDS = 400
# Past the first evictions, so that every buffer and every segment has been in use.
EVICTIONS = 20_000


def statistics(client: Client) -> dict[str, int]:
    found = {key.decode(): value for key, value in client.stats().items()}
    return {name: int(found[name]) for name in ("curr_items", "evictions")}


def main(connections: int, address: str) -> None:
    host, port = address.rsplit(":", 1)
    names.wait_for([host])
    clients = [Client((host, int(port)), connect_timeout=10, timeout=30) for _ in range(connections)]
    seen = {"curr_items": 0, "evictions": 0}
    for turn in range(MOST_ROUNDS):
        for place, client in enumerate(clients):
            small = {f"small-{turn}-{place}-{n}": b"x" * SIZES[n % 3] for n in range(200)}
            if client.set_many(small, expire=86400, noreply=False):
                sys.exit("the node did not store all small values")
            large = f"large-{turn}-{place}"
            if not client.set(large, b"y" * SIZES[3 + (turn + place) % 3], expire=86400, noreply=False):
                sys.exit(f"the node did not store {large}")
            client.get_many(list(small) + [large])
        seen = statistics(clients[0])
        if seen["evictions"] > EVICTIONS:
            break
    print(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
