"""Looks at the operator's server from the device: reachable, trusted, clocks alike. Tells it nothing of the owner."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from fedsus.types import Clock
from fedsus_client.config import ServerPart
from fedsus_client.findings import Finding, fail, fine, warn

TIMEOUT: Final = 5.0
_SKEW_WARNS, _SKEW_FAILS = 30.0, 240.0
# X509_V_ERR_* of OpenSSL, x509_vfy.h
_NOT_YET, _EXPIRED, _NO_ISSUER, _NAME = 9, 10, {2, 18, 19, 20, 21}, {62, 64}


def authority(file: Path | None, clock: Clock) -> Finding:
    """Whether the file of the certificate authority holds certificates that are valid now."""
    if file is None:
        return fine("authority", "the system's certificate authorities")
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except FileNotFoundError:
        return fail("authority", f"{file}: no such file", "ask the operator for ca.pem, or mend [server] ca")
    except OSError as error:
        return fail("authority", f"{file}: cannot be read: {error.strerror}", "mend its permissions")
    except ValueError:
        return fail("authority", f"{file}: holds no PEM certificate", "ask the operator for ca.pem again")
    now = datetime.fromtimestamp(clock(), UTC)
    last = max(certificate.not_valid_after_utc for certificate in found)
    if last < now:
        return fail("authority", f"{file}: expired on {last:%Y-%m-%d}", "ask the operator for a new ca.pem")
    return fine("authority", f"{file}, valid until {last:%Y-%m-%d}")


def probe(server: ServerPart, clock: Clock) -> Iterator[Finding]:
    """Reachability, then TLS, then the clock; ends at the first that fails."""
    try:
        raw = socket.create_connection((server.host, server.port), timeout=TIMEOUT)
    except socket.gaierror:
        yield fail("server", f"{server.host}: no such host", "check [server] address and the network's name service")
        return
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error)
        yield fail(
            "server", f"{server.address}: {reason}", "is the server up, and does the firewall let this port out?"
        )
        return
    with raw:
        yield fine("server", f"{server.address} answers")
        try:
            context = ssl.create_default_context(cafile=server.ca_file)
            with context.wrap_socket(raw, server_hostname=server.host) as secure:
                yield _certificate(secure)
                yield _clock(server, secure, clock)
        except ssl.SSLCertVerificationError as error:
            yield _mistrusted(server, error)
        except (OSError, ssl.SSLError) as error:
            yield fail(
                "tls",
                f"{server.address}: {getattr(error, 'reason', None) or error.strerror or error}",
                "is this the port of the fedsus server?",
            )


def _certificate(secure: ssl.SSLSocket) -> Finding:
    end = dict(secure.getpeercert() or {}).get("notAfter")
    return fine("tls", f"{secure.version()}, certificate trusted, valid until {end}")


def _mistrusted(server: ServerPart, error: ssl.SSLCertVerificationError) -> Finding:
    code = error.verify_code
    if code == _EXPIRED:
        return fail("tls", "a certificate of the server has expired", "the operator must renew it")
    if code == _NOT_YET:
        return fail("tls", "a certificate of the server is not valid yet", "is this device's clock right?")
    if code in _NAME:
        return fail("tls", f"the server's certificate is not for '{server.host}'", "use its name in [server] address")
    if code in _NO_ISSUER:
        return fail("tls", "the server's certificate is from another authority", "ask the operator for its ca.pem")
    return fail("tls", f"the server's certificate is not accepted: {error.verify_message}", "tell the operator")


def _clock(server: ServerPart, secure: ssl.SSLSocket, clock: Clock) -> Finding:
    """This device's clock against the server's Date header: signatures carry the time."""
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.sock = secure
    try:
        connection.request("GET", "/")
        date = connection.getresponse().getheader("Date")
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (OSError, http.client.HTTPException, ValueError):
        return warn("clock", "the server gave no date to compare with")
    skew = clock() - theirs
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server"
    if abs(skew) > _SKEW_FAILS:
        return fail("clock", text, "set the clock (NTP): the server refuses signatures that are minutes off")
    return warn("clock", text) if abs(skew) > _SKEW_WARNS else fine("clock", "agrees with the server's")
