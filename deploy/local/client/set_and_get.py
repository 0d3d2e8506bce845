"""Sets and gets values through pymemcache's HashClient, as an application would.

usage: set_and_get.py HOST:PORT...   the nodes of one cache
"""

import sys

import names
from pymemcache.client.hash import HashClient

KEYS = 100  # enough for every node of a small cache to get some


def main(addresses: list[str]) -> None:
    nodes = [(host, int(port)) for host, port in (address.rsplit(":", 1) for address in addresses)]
    names.wait_for([host for host, _ in nodes])
    client = HashClient(nodes, connect_timeout=5, timeout=5)
    for number in range(KEYS):
        if not client.set(f"greeting-{number}", f"hello {number}".encode(), expire=3600, noreply=False):
            sys.exit(f"the cache did not store greeting-{number}")
    for number in range(KEYS):
        value = client.get(f"greeting-{number}")
        if value != f"hello {number}".encode():
            sys.exit(f"greeting-{number} was set to 'hello {number}' and read as {value!r}")
    print(f"remark: {KEYS} keys over {', '.join(addresses)}")


if __name__ == "__main__":
    main(sys.argv[1:])
