"""TLS as a client: the files that the settings and the environment name for it, each judged by itself.

Whatever is wrong with one of them, the one variable is named, and why. Nobody is ever asked for a pass phrase. How
strict a check is does not depend on the version of Python: as with curl and Vault's own tools, an authority that
somebody named is one, even if its certificate does not mark its constraints as critical.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rotator.errors import BadInput, Problem, RotatorError

_MOST = 16 * 1024 * 1024
_CERTIFICATES = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN TRUSTED CERTIFICATE-----")
_KEYS = (b"PRIVATE KEY-----",)
_AS_PEM = "is not PEM; a DER file is converted by `openssl {} -inform der`"
# Of OpenSSL's numbers for what it does not accept about a certificate.
_HELP = {
    9: "the certificate is not valid yet; is this machine's clock right?",
    10: "the certificate has expired",
    18: "the certificate is signed by nobody but itself; name it, or the authority behind it, in {}",
    19: "the certificate's authority is not known here; name it in {}",
    20: "the certificate's authority is not known here; name it in {}",
    21: "the certificate's authority is not known here; name it in {}",
    62: "the certificate is for another name than the one in the address",
    64: "the certificate is not for the IP address that is asked; use its name",
}


class TlsFile(NamedTuple):
    """A file, or a directory, and the variable that names it."""

    path: Path
    variable: str


def system_authorities(
    environ: Mapping[str, str] = os.environ,
) -> tuple[TlsFile | None, TlsFile | None]:
    """What SSL_CERT_FILE and SSL_CERT_DIR name."""
    file, folder = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    return (
        TlsFile(Path(file), "SSL_CERT_FILE") if file else None,
        TlsFile(Path(folder), "SSL_CERT_DIR") if folder else None,
    )


def client_context(
    cafile: TlsFile | None = None,
    capath: TlsFile | None = None,
    client_cert: TlsFile | None = None,
    client_key: TlsFile | None = None,
) -> ssl.SSLContext:
    """A context that accepts what these authorities have signed; without any, what the system's have.

    Raises BadInput with every variable that names what cannot be used, and why.
    """
    problems = tls_problems(cafile, capath, client_cert, client_key)
    if problems:
        raise BadInput(problems)
    context = ssl.create_default_context(
        cafile=str(cafile.path) if cafile else None, capath=str(capath.path) if capath else None
    )
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if client_cert and client_key:
        context.load_cert_chain(client_cert.path, client_key.path, _nobody_knows)
    return context


def why_refused(error: BaseException | None, variable: str) -> str:
    """Why a connection came to no TLS, in words of ours; `variable` is where an authority is named."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            # OpenSSL's own words for the number, which quote nothing.
            known = _HELP.get(error.verify_code)
            return (
                known.format(variable)
                if known
                else f"the certificate is not accepted (OpenSSL {error.verify_code})"
            )
        if isinstance(error, ssl.SSLError):
            reason = str(error.reason or "no reason").lower().replace("_", " ")
            return f"what answers there speaks no TLS that is known here ({reason}), or asks for a client certificate"
        error = error.__cause__ or error.__context__
    return "the secure connection failed"


def tls_problems(
    cafile: TlsFile | None = None,
    capath: TlsFile | None = None,
    client_cert: TlsFile | None = None,
    client_key: TlsFile | None = None,
) -> list[Problem]:
    """What is wrong with these; where no authority is named, with what the environment names for all programs."""
    if cafile is None and capath is None:
        cafile, capath = system_authorities()
    return [*_of_authorities(cafile, capath), *_of_client(client_cert, client_key)]


class _Encrypted(RotatorError):
    """A key that is protected by a pass phrase, which nobody is there to type."""


def _nobody_knows() -> str:
    raise _Encrypted("a key with a pass phrase")


def _of_authorities(cafile: TlsFile | None, capath: TlsFile | None) -> Iterator[Problem]:
    if cafile is not None:
        what = _unlike(cafile.path, _CERTIFICATES, "x509") or _broken(cafile.path)
        if what:
            yield Problem(cafile.variable, f"names a file with authorities that {what}")
    if capath is not None:
        what = _no_folder(capath.path)
        if what:
            yield Problem(capath.variable, f"names a directory with authorities that {what}")


def _of_client(cert: TlsFile | None, key: TlsFile | None) -> Iterator[Problem]:
    if cert is None or key is None:
        return
    wrong = _unlike(cert.path, _CERTIFICATES, "x509") or _broken(cert.path)
    if wrong:
        yield Problem(cert.variable, f"names a client certificate that {wrong}")
    bad = _unlike(key.path, _KEYS, "pkey")
    if not bad and not wrong:
        bad = _unusable(cert, key)
    if bad:
        yield Problem(key.variable, f"names a key that {bad}")


def _unusable(cert: TlsFile, key: TlsFile) -> str | None:
    """What is wrong with a key whose certificate is right."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert.path, key.path, _nobody_knows)
        return None
    except _Encrypted:
        return "is protected by a pass phrase, which nobody is there to type; give one without (`openssl pkey`)"
    except ssl.SSLError as error:
        reason = str(error.reason or "not readable")
    except (OSError, ValueError) as error:
        return f"cannot be read ({type(error).__name__})"
    if reason == "KEY_VALUES_MISMATCH":
        return f"is not that of the certificate in {cert.variable}"
    return f"is broken, or of a kind that is not known here ({reason.lower().replace('_', ' ')})"


def _unlike(file: Path, marks: tuple[bytes, ...], kind: str) -> str | None:
    """What keeps a file from being PEM of that kind."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST)
    except FileNotFoundError:
        return "does not exist"
    except IsADirectoryError:
        return "is a directory; name the file in it"
    except PermissionError:
        return "this user may not read"
    except (OSError, ValueError) as error:
        return f"cannot be read ({type(error).__name__})"
    if not data.strip():
        return "is empty"
    return None if any(mark in data for mark in marks) else _AS_PEM.format(kind)


def _broken(file: Path) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        return None
    except (ssl.SSLError, OSError):
        return "holds a certificate that is broken"


def _no_folder(folder: Path) -> str | None:
    try:
        next(iter(folder.iterdir()), None)
        return None
    except FileNotFoundError:
        return "does not exist"
    except NotADirectoryError:
        return "is a file; name the directory it is in"
    except PermissionError:
        return "this user may not read"
    except (OSError, ValueError) as error:
        return f"cannot be read ({type(error).__name__})"
