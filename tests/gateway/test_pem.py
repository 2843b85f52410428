"""Files of TLS that cannot be used: the one to blame is named."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from gateway.rest import pem


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates and their keys."""
    folder = tmp_path_factory.mktemp("pem")
    for name in ("a", "b"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=a", "-keyout", f"{name}.key",
             "-out", f"{name}.crt"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
    (folder / "text").write_text("hello")
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("gone", "a.key", "TLS certificate 'gone' cannot be used: no such file or directory"),
        ("a.crt", "gone", "TLS key 'gone' cannot be used: no such file or directory"),
        ("a.crt", ".", "TLS key '.' cannot be used: is a directory"),
        ("text", "a.key", "TLS certificate 'text' cannot be used: it is no PEM file with a line BEGIN CERTIFICATE"),
        ("a.key", "a.crt", "TLS certificate 'a.key' cannot be used: it is no PEM file with a line BEGIN CERTIFICATE"),
        ("a.crt", "text", "TLS key 'text' cannot be used: it is no PEM file with a line PRIVATE KEY"),
        ("a.crt", "b.key", "TLS certificate 'a.crt' and key 'b.key' cannot be used: they do not belong together"),
    ],
)
def test_the_file_to_blame_is_named(
    files: Path, monkeypatch: pytest.MonkeyPatch, certificate: str, key: str, says: str
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(OSError) as caught:  # noqa: PT011  # also of ssl
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)

    assert pem.refusal(caught.value, certificate, key).message == says


def test_a_client_ca_is_named_as_one(files: Path) -> None:
    error = ssl.SSLError(0, "no certificate or crl found")

    refused = pem.refusal(error, str(files / "a.crt"), str(files / "a.key"), str(files / "text"))

    assert (
        refused.message
        == f"client CA '{files / 'text'}' cannot be used: it is no PEM file with a line BEGIN CERTIFICATE"
    )
