"""The programs under test, and certificates for them.

INTEROP_BIN names the folder with rpc-interop-server and rpc-interop-client.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess

import pytest

BIN = os.environ.get("INTEROP_BIN", str(pathlib.Path(__file__).parent.parent / ".build/debug"))
# The name that the certificates are for; nobody resolves it.
NAME = "interop.test"
LIMIT = 30


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A folder with ca.pem, and server.pem with server.key for NAME."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "extensions").write_text(f"subjectAltName=DNS:{NAME}\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca"],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={NAME}"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
         "-CAcreateserial", "-extfile", "extensions", "-out", "server.pem"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session", params=["plain", "tls"])
def tls(request):
    """The folder with certificates, or None for plain text."""
    return request.getfixturevalue("certificates") if request.param == "tls" else None


@contextlib.contextmanager
def our_server(tls):
    """The address of our server."""
    options = []
    if tls:
        options = ["--use_tls", "--tls_cert_file", tls / "server.pem",
                   "--tls_key_file", tls / "server.key"]
    server = subprocess.Popen(
        [f"{BIN}/rpc-interop-server", *options], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.wait(LIMIT)


def run_our_client(port, tls, *options):
    """All cases of our client; fails if one of them does."""
    if tls:
        options = ("--use_tls", "--use_test_ca", "--ca_file", tls / "ca.pem",
                   "--server_host_override", NAME, *options)
    # A machine that is busy with other tests is slow, and not wrong.
    patience = ("--soak_overall_timeout_seconds", "60",
                "--soak_per_iteration_max_acceptable_latency_ms", "20000")
    client = subprocess.run(
        [f"{BIN}/rpc-interop-client", "--server_port", str(port), *patience, *options],
        capture_output=True,
        text=True,
        timeout=8 * LIMIT,
    )
    assert client.returncode == 0, client.stdout + client.stderr
    assert "24 passed, 0 failed" in client.stdout
