"""Certificates and keys: one authority of the consortium's own, the server's certificate, and one
key pair a site.

Elliptic curves of NIST, since Flower accepts no others for its nodes. Secret files are readable by
their owner only.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrobust.errors import ConfigError

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
SERVER_CERTIFICATE, SERVER_KEY = "server.pem", "server.key"
SITE_KEY, SITE_PUBLIC = "node", "node.pub"
CA_DAYS, SERVER_DAYS = 3650, 397
BEFORE = timedelta(minutes=5)  # clocks differ


def make_certificate_authority(folder: Path) -> None:
    """ca.crt, which all sites get, and ca.key, which never leaves this folder. Raises ConfigError
    where they exist already."""
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("fedrobust consortium")
    usage = _usage(digital_signature=False, signs=True)
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _certificate(name, name, key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True).add_extension(identity, critical=False)
    _write_secret(folder / CA_KEY, _pem(key))
    _write(
        folder / CA_CERTIFICATE,
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
    )


def make_server_certificate(folder: Path, authority: Path, hosts: Sequence[str]) -> None:
    """server.pem and server.key for these host names and IP addresses, signed by the authority in
    its folder."""
    if not hosts:
        raise ConfigError(
            "host: name the host under which the sites reach the server, e.g. --host "
            "federation.example.org"
        )
    signer = x509.load_pem_x509_certificate((authority / CA_CERTIFICATE).read_bytes())
    secret = serialization.load_pem_private_key((authority / CA_KEY).read_bytes(), None)
    if not isinstance(secret, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"{authority / CA_KEY}: no elliptic-curve key; make the authority anew "
            "with the command keys"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _certificate(_name(hosts[0]), signer.subject, key.public_key(), SERVER_DAYS)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName([_host(host) for host in hosts]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True, signs=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    _write_secret(folder / SERVER_KEY, _pem(key))
    _write(
        folder / SERVER_CERTIFICATE,
        builder.sign(secret, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
    )


def make_site_certificate(folder: Path, name: str) -> None:
    """The key pair by which the server knows a site: `node` stays there, `node.pub` goes to the
    server's administrator."""
    key = ec.generate_private_key(ec.SECP384R1())
    ssh, plain = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    _write_secret(folder / SITE_KEY, key.private_bytes(serialization.Encoding.PEM, ssh, plain))
    _write(folder / SITE_PUBLIC, public + b" " + name.encode() + b"\n")


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_secret(path: Path, data: bytes) -> None:
    _write(path, data, 0o600)


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A new file with these rights from its first moment on; nothing is ever written over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigError(
            f"{path}: exists already and was left alone; choose another folder, or "
            "move it away to make a new one"
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
