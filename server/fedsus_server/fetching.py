"""Asks a source of carbon intensity over HTTP, once."""

from __future__ import annotations

import threading

import httpx

from fedsus.energy.grid.certificates import authorities, mistrusted
from fedsus.energy.grid.fetching import Answer, Request, closed_after
from fedsus.errors import EnvironmentFault


def fetch(request: Request) -> Answer:
    """See `fedsus.energy.grid.fetching.Fetch`. No redirect is followed, no proxy asked, and nothing decoded.

    After the timeout in all the connection is closed, however its bytes drip: it would be there for days else.

    Raises:
        ConfigError: the authorities' file cannot be used.
        EnvironmentFault: not connected, or broken off.
    """
    late: threading.Event | None = None
    verified = authorities(request.ca)
    try:
        with (
            httpx.Client(timeout=request.timeout, verify=verified, follow_redirects=False, trust_env=False) as client,
            closed_after(request.timeout, client.close) as late,
            client.stream("GET", request.url, headers=dict(request.headers)) as response,
        ):
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > request.largest:
                    break
    except httpx.TimeoutException:
        raise EnvironmentFault(f"no answer within {request.timeout:g} s") from None
    except httpx.ConnectError as error:
        raise EnvironmentFault(mistrusted(error) or f"cannot be reached: {error}") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError, UnicodeError) as error:
        if late is not None and late.is_set():  # whatever a connection says that was closed under it
            raise EnvironmentFault(f"no whole answer within {request.timeout:g} s") from None
        raise EnvironmentFault(f"broke off: {type(error).__name__}") from None
    return Answer(
        status=response.status_code,
        content=response.headers.get("content-type", ""),
        body=bytes(body),
        location=response.headers.get("location", ""),
    )
