"""Certificates and keys: what Python's own TLS and Flower's own loaders make of them."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedrobust.errors import ConfigError
from fedrobust.federation import certificates


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certificates.make_certificate_authority(tmp_path)
    certificates.make_server_certificate(
        tmp_path, tmp_path, ["federation.example.org", "127.0.0.1"]
    )
    return tmp_path


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """The version of TLS after a handshake in memory; raises what the client raises."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = (
        server.wrap_bio(one, two, server_side=True),
        client.wrap_bio(two, one, server_hostname=host),
    )
    for _ in range(4):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return theirs.version()


def contexts(folder: Path, authority: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(
        folder / certificates.SERVER_CERTIFICATE, folder / certificates.SERVER_KEY
    )
    client = ssl.create_default_context(cafile=str(authority / certificates.CA_CERTIFICATE))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    return server, client


@pytest.mark.parametrize("host", ["federation.example.org", "127.0.0.1"])
def test_the_server_is_believed_under_its_names(folder: Path, host: str) -> None:
    assert shake_hands(*contexts(folder, folder), host) == "TLSv1.3"


def test_no_other_name_and_no_other_authority(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(*contexts(folder, folder), "elsewhere.example.org")
    certificates.make_certificate_authority(folder / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(*contexts(folder, folder / "other"), "127.0.0.1")


def test_a_site_s_key_is_of_the_kind_that_flower_takes(tmp_path: Path) -> None:
    certificates.make_site_certificate(tmp_path, "rosendahl")
    private = load_ssh_private_key((tmp_path / certificates.SITE_KEY).read_bytes(), None)
    public = load_ssh_public_key((tmp_path / certificates.SITE_PUBLIC).read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public


def test_secrets_are_their_owner_s_only_and_nothing_is_written_over(folder: Path) -> None:
    certificates.make_site_certificate(folder, "a")
    for name in (certificates.CA_KEY, certificates.SERVER_KEY, certificates.SITE_KEY):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for make in (
        lambda: certificates.make_certificate_authority(folder),
        lambda: certificates.make_site_certificate(folder, "b"),
    ):
        with pytest.raises(ConfigError, match="exists already and was left alone"):
            make()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_server_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="host: name the host"):
        certificates.make_server_certificate(tmp_path, tmp_path, [])
