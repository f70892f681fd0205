"""How both sides are spoken to: what the command line says, else what the endpoint of an object says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError
from ..core.material import checked_pem, credentials
from ..core.resolve import Credentials, ResolvedEndpoint, ResolvedTLS
from .skopeo import Access, Skopeo, usual_authfile, usual_places, write_authfile, write_certificates


@dataclass(frozen=True, slots=True)
class Side:
    """What the command line says of one side."""

    name: str  # from or to
    authfile: Path | None = None
    ca: Path | None = None
    plain_http: bool = False
    insecure_skip_verify: bool = False

    def tls(self) -> ResolvedTLS:
        """Give its TLS settings. Raises InvalidError."""
        if self.ca is None:
            return ResolvedTLS(insecure_skip_verify=self.insecure_skip_verify)
        option = f"--{self.name}-ca"
        try:
            pem = checked_pem(self.ca.read_bytes(), "CERTIFICATE")
        except OSError as error:
            found = FieldError(option, str(self.ca), f"give a readable file ({error.strerror})")
            raise InvalidError("seed", (found,)) from None
        except ValueError as error:
            raise InvalidError("seed", (FieldError(option, str(self.ca), f"give PEM certificates: {error}"),)) from None
        return ResolvedTLS(ca=pem, insecure_skip_verify=self.insecure_skip_verify)

    def credentials(self, host: str) -> Credentials | None:
        """Give what the command line's file has for a registry, or the files in the usual places; none where it is a
        credential helper that has it.
        """
        for path in (self.authfile,) if self.authfile is not None else usual_places():
            try:
                return credentials({".dockerconfigjson": path.read_bytes()}, host)
            except (OSError, ValueError):
                continue
        return None


def source_access(side: Side, private: Path) -> Access:
    """Give how sources are asked. Takes a private directory, for certificates. Raises InvalidError."""
    return _access(side, side.tls(), side.authfile or usual_authfile(), private)


def target_access(
    side: Side, host: str, endpoints: Mapping[str, ResolvedEndpoint], private: Path, skopeo: Skopeo
) -> Access:
    """Give how the registry is spoken to that is filled. Takes the endpoints there, by host and path.

    Certificates are those of the command line, else those of the first endpoint that has some. Credentials are those of
    --to-authfile, else those that skopeo finds in the usual places, else the endpoints'. Raises InvalidError.
    """
    tls = side.tls()
    theirs = next((item.tls for item in endpoints.values() if item.tls is not None), None)
    if theirs is not None:
        skip = tls.insecure_skip_verify or theirs.insecure_skip_verify
        tls = replace(theirs, ca=tls.ca or theirs.ca, insecure_skip_verify=skip)
    authfile = side.authfile or usual_authfile()
    own = {key: item.credentials for key, item in endpoints.items() if item.credentials is not None}
    if own and side.authfile is None and not skopeo.knows(host, Access(authfile)):
        authfile = write_authfile(private, own)
    plain = any(item.url.startswith("http://") for item in endpoints.values())
    return _access(side, tls, authfile, private, plain=plain)


def _access(side: Side, tls: ResolvedTLS, authfile: Path | None, private: Path, *, plain: bool = False) -> Access:
    certificates = write_certificates(private / f"{side.name}-certificates", tls)
    # skopeo has one word for both: it tries TLS without verification first, then HTTP.
    lenient = plain or side.plain_http or tls.insecure_skip_verify
    return Access(authfile, certificates, verify=not lenient)
