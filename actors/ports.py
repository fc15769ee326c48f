"""Free ports of this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A different port for each name, free at this moment.

    All sockets are held open until the last port is known, so none is given out twice; another
    process may still take one before it is used, which the caller must survive by trying again.
    """
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        for name in names:
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind(("127.0.0.1", 0))
            ports[name] = int(listener.getsockname()[1])
        return ports
