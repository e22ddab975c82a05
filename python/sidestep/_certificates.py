# SPDX-License-Identifier: MIT
"""Certificates in place of a key, for who has an authority that signs them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Certificates"]


class Certificates:
    """What one side shows of itself at a network address, and whom it lets in.

    ``certificate``, ``key`` and ``authority`` are paths of PEM files: this side's
    certificate (followed by those between it and the authority), its private key
    without a password, and the certificates of who has to have signed the peer's. Both
    sides show one. A client wants its server's to name the host of the address, or
    ``peer`` (a host name or an IP address); a listener takes any that the authority has
    signed, or with ``peer`` only that client's.

    The files are read when a listener or the first client is made.
    """

    __slots__ = ("authority", "certificate", "key", "peer")

    def __init__(
        self,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str],
        authority: str | os.PathLike[str],
        peer: str | None = None,
    ) -> None:
        self.certificate = os.fspath(certificate)
        self.key = os.fspath(key)
        self.authority = os.fspath(authority)
        self.peer = peer

    def _parts(self) -> tuple[str, str, str, str | None]:
        return self.certificate, self.key, self.authority, self.peer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificates) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def __repr__(self) -> str:
        parts = ", ".join(repr(part) for part in self._parts() if part is not None)
        return f"Certificates({parts})"
