"""Ports that stay this server's own while the process that listens on them starts, or starts again."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Iterator

from fedsus.errors import EnvironmentFault


@contextlib.contextmanager
def held(host: str, port: int) -> Iterator[int]:
    """A port that another process can listen on, and that the system gives to nobody else meanwhile.

    Linux lets a second socket bind where the first does not listen and both have SO_REUSEADDR (socket(7)), and passes
    by bound ports when it chooses one. Elsewhere the port is only looked at: the second socket would be refused.

    Args:
        host: interface.
        port: 0 chooses a free one.

    Raises:
        EnvironmentFault: it is taken, or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((host, port))
        except PermissionError:
            raise EnvironmentFault(f"port {port} needs more rights; choose one above 1023 with --port") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EnvironmentFault(
                    f"port {port} on {host} is taken by another process; stop that one, or choose another with --port"
                ) from None
            raise EnvironmentFault(f"cannot listen on {host}: {error.strerror or error}; see --host") from None
        number = int(holder.getsockname()[1])
        if sys.platform != "linux":
            holder.close()
        yield number
