# SPDX-License-Identifier: MIT
"""The standard library's proof of a key, over a connection.

The challenged side proves that it knows the key with an HMAC over the challenge. Since
Python 3.12 challenge and answer carry the digest's name in braces; older peers send 20
bytes without one and mean MD5, and answer a newer challenge with the 16 bytes of an MD5
HMAC over all of it. What is here talks to both, unless it is told that MD5 will not do:
then such a peer is refused, and so is one in between that would have both sides fall
back to it.
"""

from __future__ import annotations

import os

from .context import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CHALLENGE", "FAILURE", "WELCOME", "answer_challenge", "deliver_challenge"]

MESSAGE_LENGTH = 40

CHALLENGE = _CHALLENGE = b"#CHALLENGE#"
WELCOME = _WELCOME = b"#WELCOME#"
FAILURE = _FAILURE = b"#FAILURE#"

_ALLOWED_DIGESTS = frozenset({b"md5", b"sha256", b"sha384", b"sha3_256", b"sha3_384"})
_MAX_DIGEST_LEN = max(map(len, _ALLOWED_DIGESTS))
_MD5ONLY_MESSAGE_LENGTH = 20
_MD5_DIGEST_LEN = 16
_LEGACY_LENGTHS = (_MD5ONLY_MESSAGE_LENGTH, _MD5_DIGEST_LEN)
_REPLY_LENGTH_MAX = 256


def _get_digest_name_and_payload(message: bytes) -> tuple[str, bytes]:
    """Split ``{digest}payload``; the name is empty for an old peer's message."""
    if len(message) in _LEGACY_LENGTHS:
        return "", message
    if message.startswith(b"{"):
        end = message.find(b"}", 1, _MAX_DIGEST_LEN + 2)
        if end > 0 and message[1:end] in _ALLOWED_DIGESTS:
            return message[1:end].decode("ascii"), message[end + 1 :]
    raise AuthenticationError(
        "unsupported message length, missing digest prefix, "
        f"or unsupported digest: {message=}"
    )


def _create_response(authkey: bytes, message: bytes) -> bytes:
    """Return the proof over a challenge, in the manner the challenge asks for."""
    import hmac

    digest_name = _get_digest_name_and_payload(message)[0]
    if not digest_name:
        try:
            return hmac.new(authkey, message, "md5").digest()
        except ValueError:
            # No MD5 here (FIPS). An old peer is going to refuse what comes instead.
            digest_name = "sha256"
    response = hmac.new(authkey, message, digest_name).digest()
    return b"{%s}%s" % (digest_name.encode("ascii"), response)


def _verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """Raise AuthenticationError unless the response proves the key."""
    import hmac

    digest_name, mac = _get_digest_name_and_payload(response)
    digest_name = digest_name or "md5"
    try:
        expected = hmac.new(authkey, message, digest_name).digest()
    except ValueError:
        raise AuthenticationError(f"{digest_name} unsupported") from None
    if len(expected) != len(mac):
        raise AuthenticationError(
            f"expected {digest_name!r} of length {len(expected)} got {len(mac)}"
        )
    if not hmac.compare_digest(expected, mac):
        raise AuthenticationError("digest received was wrong")


def _require_bytes(authkey: object) -> None:
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)!s}")


_MD5_HINT = (
    "the peer's proof of the key would be by MD5, as Python 3.11 makes it; "
    "legacy_md5=True takes it"
)


def _refuse_md5(message: bytes) -> None:
    if _get_digest_name_and_payload(message)[0] in {"", "md5"}:
        raise AuthenticationError(_MD5_HINT)


def deliver_challenge(
    connection: Any,
    authkey: bytes,
    digest_name: str = "sha256",
    *,
    legacy_md5: bool = True,
) -> None:
    """Have the peer prove that it knows the key, else raise AuthenticationError."""
    _require_bytes(authkey)
    message = b"{%s}%s" % (digest_name.encode("ascii"), os.urandom(MESSAGE_LENGTH))
    connection.send_bytes(_CHALLENGE + message)
    response = connection.recv_bytes(_REPLY_LENGTH_MAX)
    try:
        if not legacy_md5:
            _refuse_md5(response)
        _verify_challenge(authkey, message, response)
    except AuthenticationError:
        connection.send_bytes(_FAILURE)
        raise
    connection.send_bytes(_WELCOME)


def _challenge_in(message: bytes, *, legacy_md5: bool) -> bytes:
    """Return what a peer wants a proof over, or raise AuthenticationError."""
    if not message.startswith(_CHALLENGE):
        raise AuthenticationError(f"Protocol error, expected challenge: {message=}")
    message = message[len(_CHALLENGE) :]
    if len(message) < _MD5ONLY_MESSAGE_LENGTH:
        raise AuthenticationError(f"challenge too short: {len(message)} bytes")
    if not legacy_md5:
        _refuse_md5(message)
    return message


def answer_challenge(
    connection: Any, authkey: bytes, *, legacy_md5: bool = True
) -> None:
    """Prove to the peer that we know the key; AuthenticationError if it refuses."""
    _require_bytes(authkey)
    message = connection.recv_bytes(_REPLY_LENGTH_MAX)
    message = _challenge_in(message, legacy_md5=legacy_md5)
    connection.send_bytes(_create_response(authkey, message))
    if connection.recv_bytes(_REPLY_LENGTH_MAX) != _WELCOME:
        raise AuthenticationError("digest sent was rejected: the peer has another key")
