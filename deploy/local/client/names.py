"""The cluster's DNS learns of a pod a moment after the pod is ready: what runs at once has to wait for the names."""

import socket
import time

PATIENCE_SECONDS = 60
PAUSE_SECONDS = 0.2


def wait_for(hosts: list[str]) -> None:
    """Returns once every host has an address; raises what the resolver says where one has none in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for host in hosts:
        while True:
            try:
                socket.getaddrinfo(host, None)
                break
            except socket.gaierror:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)
