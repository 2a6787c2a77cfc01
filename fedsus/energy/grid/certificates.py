"""Whom a source over HTTPS is taken from: the authorities that count, and why a certificate was not accepted."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    import ssl

# X509_V_ERR_* of OpenSSL, x509_vfy.h
_NOT_YET, _EXPIRED, _NO_ISSUER, _NAME = 9, 10, frozenset({2, 18, 19, 20, 21}), frozenset({62, 64})
_CHAIN: Final = 20
"""Causes of an error that are looked at."""


def authorities(ca: Path | None) -> ssl.SSLContext:
    """Checks certificates and names by the authorities in ``ca`` alone; None, by the system's.

    Raises:
        ConfigError: the file cannot be read, or holds no certificate; it is read anew each time, since it is renewed.
    """
    if ca is None:
        return _system()
    import ssl

    if not ca.is_file():  # a pipe would be waited for
        raise ConfigError(f"ca: {ca}: {'not a file' if ca.exists() else 'no such file'}")
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError:
        raise ConfigError(f"ca: {ca}: holds no certificate in PEM form that can be read") from None
    except OSError as error:
        raise ConfigError(f"ca: {ca}: cannot be read: {error.strerror}") from None


def mistrusted(error: BaseException) -> str | None:
    """Why a source's certificate was not accepted, in words that follow its name; None of all other errors."""
    found = _verification(error)
    if found is None:
        return None
    code = found.verify_code
    if code == _EXPIRED:
        return "its certificate has expired"
    if code == _NOT_YET:
        return "its certificate is not valid yet; is this machine's clock right?"
    if code in _NAME:
        return "its certificate is for another name than that in url"
    if code in _NO_ISSUER:
        return "its certificate is from an authority that does not count here; ca names the file of those that do"
    return f"its certificate is not accepted: {found.verify_message}"


def _verification(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The refusal of a certificate among the causes of an error."""
    import ssl

    cause: BaseException | None = error
    for _ in range(_CHAIN):
        if cause is None or isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


@functools.cache
def _system() -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context()
