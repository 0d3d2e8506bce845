"""Sets or gets numbered keys through pymemcache's HashClient, as an application would.

usage: keys.py set|get COUNT HOST:PORT...   the nodes of one cache

Prints {"stored": N} or {"found": N} as JSON; a value that is not the one that was set is an error.
"""

import json
import sys
from pathlib import Path

from pymemcache.client.hash import HashClient

sys.path.append(str(Path(__file__).parents[2] / "deploy/local/client"))
import names  # noqa: E402

CONNECT_SECONDS = 10
ANSWER_SECONDS = 10


def value(number: int) -> bytes:
    return f"value {number} ".encode() * (1 + number % 7)


def main(action: str, count: int, addresses: list[str]) -> None:
    nodes = [(host, int(port)) for host, port in (address.rsplit(":", 1) for address in addresses)]
    names.wait_for([host for host, _ in nodes])
    client = HashClient(nodes, connect_timeout=CONNECT_SECONDS, timeout=ANSWER_SECONDS)
    if action == "set":
        stored = sum(client.set(f"key-{n}", value(n), expire=86400, noreply=False) is True for n in range(count))
        print(json.dumps({"stored": stored}))
        return
    found = 0
    for number in range(count):
        got = client.get(f"key-{number}")
        if got is not None and got != value(number):
            sys.exit(f"key-{number} was set to {value(number)!r} and read as {got!r}")
        found += got is not None
    print(json.dumps({"found": found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
