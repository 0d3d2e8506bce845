"""Uses a cache by mutual TLS, as an application would that reads its files for each connection, until its standard input ends.

usage: tls_use.py FOLDER HOST:PORT...   FOLDER has ca.crt, tls.crt and tls.key, which may change at any time

In each round, every node gets a request on a connection that stays, and one on a connection of its own. Prints, as JSON, how many
handshakes and requests there were and how many failed, how many of the standing connections the node had closed, and the first
failures in words. A connection that was closed between requests is opened once more, and its request is then to succeed.
"""

import json
import select
import shutil
import ssl
import sys
from pathlib import Path

from pymemcache.client.base import Client

sys.path.append(str(Path(__file__).parents[2] / "deploy/local/client"))
import names  # noqa: E402

CONNECT_SECONDS = 10
ANSWER_SECONDS = 10
PAUSE_SECONDS = 0.1
FAILURES_TOLD = 5


class Tally:
    def __init__(self) -> None:
        self.counts = {"handshakes": 0, "failedHandshakes": 0, "requests": 0, "failedRequests": 0, "closed": 0}
        self.failures: list[str] = []

    def failed(self, kind: str, node: tuple[str, int], error: Exception) -> None:
        self.counts[kind] += 1
        if len(self.failures) < FAILURES_TOLD:
            self.failures.append(f"{kind} {node[0]}: {type(error).__name__} {error}")


def connect(folder: Path, node: tuple[str, int], tally: Tally) -> Client | None:
    """A connection on which one request was answered: only then is it known that the node took the certificate."""
    tally.counts["handshakes"] += 1
    try:
        # One look at the folder for all three: a swap between two files would mix what does not belong together.
        now = (folder / "..data").resolve()
        context = ssl.create_default_context(cafile=str(now / "ca.crt"))
        context.load_cert_chain(now / "tls.crt", now / "tls.key")
        client = Client(node, connect_timeout=CONNECT_SECONDS, timeout=ANSWER_SECONDS, tls_context=context)
        client.version()
        return client
    except Exception as error:  # whatever the library makes of it, it is a handshake that failed
        tally.failed("failedHandshakes", node, error)
        return None


def ask(client: Client, number: int) -> None:
    value = f"value {number}".encode()
    if client.set("greeting", value, expire=3600, noreply=False) is not True:
        raise ValueError("it was not stored")
    got = client.get("greeting")
    if got is not None and not got.startswith(b"value "):
        raise ValueError(f"it was read as {got!r}")


def request(standing: dict, folder: Path, node: tuple[str, int], number: int, tally: Tally) -> None:
    tally.counts["requests"] += 1
    client = standing.get(node)
    if client is not None:
        try:
            ask(client, number)
            return
        except Exception:  # closed by the node, for its age: the next one is to hold
            tally.counts["closed"] += 1
            client.close()
    standing[node] = client = connect(folder, node, tally)
    if client is None:
        tally.counts["failedRequests"] += 1
        return
    try:
        ask(client, number)
    except Exception as error:
        tally.failed("failedRequests", node, error)
        standing[node] = None


def main(folder: Path, addresses: list[str]) -> None:
    nodes = [(host, int(port)) for host, port in (address.rsplit(":", 1) for address in addresses)]
    names.wait_for([host for host, _ in nodes])
    tally, standing, number = Tally(), {}, 0
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        number += 1
        for node in nodes:
            request(standing, folder, node, number, tally)
            fresh = connect(folder, node, tally)
            if fresh is not None:
                fresh.close()
    print(json.dumps(tally.counts | {"failures": tally.failures}))
    # Here and not in the test, which may have been killed: the input ends all the same.
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
