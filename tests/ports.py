"""Ports for the groups of processes that tests start."""

import socket

__all__ = ["free_port"]


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
