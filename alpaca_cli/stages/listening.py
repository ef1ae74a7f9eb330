"""Where a server of ours may listen: on this machine, unless something guards the door."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from alpaca_cli.core.errors import UsageError


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost counts as open."""
    if address == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def listen(address: str, port: int | None, usual: int) -> socket.socket:
    """A socket that listens.

    Args:
        port: 0 takes a free one, None the usual one or, when that is in use, a free one.

    Raises:
        UsageError: the port is in use or not allowed, or there is no such address here.
    """
    if port is not None and not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: a number from 0 to 65535")
    try:
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        try:
            return socket.create_server((address, usual if port is None else port), family=family)
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise
            return socket.create_server((address, 0), family=family)
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        reason = "somebody listens there already" if used else error.strerror or error
        raise UsageError(
            f"{url(address, port or 0)}: cannot listen: {reason}",
            hint="another --port; 0 takes a free one" if used else "",
        ) from error


def url(address: str, port: int) -> str:
    """The http address, without a slash at its end."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def shown(address: str) -> str:
    """What to call an address: a server on all of this machine's is reached by the host's name."""
    return socket.gethostname() if address in ("0.0.0.0", "::") else address


def reachable(address: str) -> str:
    """The address under which this machine reaches a server that listens on all of its own."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
