"""The rig: runs the agent against real parts, breaks them, and judges what arrived.

Run with the folder `agent` as the working directory: `python -m rig.demo`.
"""

from __future__ import annotations

import socket


def reserve_port(port: int = 0) -> socket.socket:
    """A socket that holds a TCP port of 127.0.0.1, a free one by itself, and refuses connections.

    A server that sets SO_REUSEADDR (waitress, the valve) can listen on the port while this one is
    open, and nobody else is given it between two starts of that server.

    Raises:
        OSError: When the port asked for is taken.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind(("127.0.0.1", port))
    except BaseException:
        holder.close()
        raise
    return holder
