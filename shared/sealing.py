"""Secrets at rest: AES-256-GCM under a key derived from the installation's for one purpose, bound to their owner."""

from __future__ import annotations

from secrets import token_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import SetupError

_VERSION = b"\x01"
_NONCE_BYTES = 12


class Sealer:
    """Seals and opens bytes for an owner; what was sealed for one owner or purpose does not open for another."""

    def __init__(self, secret_key: bytes, purpose: str) -> None:
        """`purpose` is a constant of the caller's, such as "channel secrets"; it must never change."""
        key = HKDF(SHA256(), 32, salt=None, info=f"threadline {purpose}".encode()).derive(secret_key)
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, owner: str) -> bytes:
        """Return `plain` encrypted: version, nonce, ciphertext and tag."""
        nonce = token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, _VERSION + owner.encode())

    def open(self, sealed: bytes, owner: str) -> bytes:
        """Return what was sealed for `owner`. Raises SetupError where another key sealed it, or somebody changed it."""
        nonce, encrypted = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, encrypted, sealed[:1] + owner.encode())
        except (InvalidTag, ValueError) as error:
            raise SetupError(
                f"the secrets of {owner} cannot be opened: THREADLINE_SECRET_KEY is not the one that sealed them"
            ) from error
