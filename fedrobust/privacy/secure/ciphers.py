"""Keys, sealed messages and masks, built on `cryptography`: X25519, HKDF-SHA256, AES-256-GCM,
AES-256-CTR."""

from __future__ import annotations

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from fedrobust.privacy.secure import Random

KEY_BYTES = 32  # of a private key, a public key, and a seed
NONCE_BYTES, TAG_BYTES = 12, 16
BLOCK_BYTES = 16
CHUNK = 1 << 18  # values of a mask made at once: 2 MB, which stay near a core until they are added


def key_pair(random: Random) -> tuple[bytes, bytes]:
    """A new (private, public) key."""
    private = random(KEY_BYTES)
    return private, public_key(private)


def public_key(private: bytes) -> bytes:
    """The public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, purpose: str) -> bytes:
    """The key for this purpose that both owners of the key pairs find. Raises ValueError for a
    public key that would leave no secret."""
    secret = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(secret)


def leaves_a_secret(public: bytes) -> bool:
    """Whether a public key is usable: with a few points every client would agree on zero, and the
    library refuses them."""
    try:
        agree(bytes(range(KEY_BYTES)), public, "")
    except ValueError:
        return False
    return True


def seal(key: bytes, text: bytes, random: Random) -> bytes:
    """The text, which only the key opens: NONCE_BYTES + TAG_BYTES longer than it."""
    nonce = random(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, None)


def unseal(key: bytes, sealed: bytes) -> bytes | None:
    """The text; None where it was sealed with another key, or changed."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
    except (InvalidTag, ValueError):
        return None


def add_mask(vector: Tensor, seed: bytes, sign: int) -> None:
    """Add (sign 1) or subtract (sign -1) the mask of a seed to an int64 vector in the RAM, in
    place, modulo 2^64: the AES-CTR stream under the seed from counter 0. A seed is used for one
    mask only."""
    values = vector.numpy()
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(BLOCK_BYTES))).encryptor()
    zeros = bytes(8 * min(CHUNK, len(values)))
    # the cipher needs space for one block more than it writes
    buffer = bytearray(8 * CHUNK + BLOCK_BYTES)
    room = np.frombuffer(buffer, dtype="<i8")
    apply = np.add if sign > 0 else np.subtract
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        stream.update_into(memoryview(zeros)[: part.nbytes], buffer)
        apply(part, room[: len(part)], out=part)
