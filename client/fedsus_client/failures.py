"""Why a connection to the server fails: each kind needs other hands."""

from __future__ import annotations

import ssl

import httpx

from fedsus.errors import FedsusError


class ConnectionLost(FedsusError):
    """The server cannot be reached or does not answer; the agent tries again."""


class TlsFailure(FedsusError):
    """The server's certificate is not trusted: wrong CA, expired, or another name."""


class NotAdmitted(FedsusError):
    """The server does not know this node key (HTTP 401, or activation refused)."""


def hands(error: FedsusError) -> str:
    """Whose hands are needed, as the first word of a line in the log."""
    return {TlsFailure: "tls", NotAdmitted: "key"}.get(type(error), "server")


def transport_error(address: str, error: httpx.TransportError) -> FedsusError:
    """TLS failures apart from a server that is down: they need different hands."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsFailure(f"the certificate of {address} is not accepted: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return TlsFailure(f"TLS with {address} failed: {cause.reason or cause}")
        cause = cause.__cause__ or cause.__context__
    return ConnectionLost(f"the server cannot be reached at {address}: {str(error) or type(error).__name__}")
