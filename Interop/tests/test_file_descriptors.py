"""A server without file descriptors for another connection."""

import os
import pathlib
import socket
import subprocess
import time

import pytest
from conftest import BIN, LIMIT

grpc = pytest.importorskip("grpc")
DESCRIPTORS = 64


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def server():
    """Our server, which may have DESCRIPTORS open files; its address and process."""
    process = subprocess.Popen(
        ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", f"{BIN}/rpc-interop-server"],
        stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        yield process.stdout.readline().split()[-1], process
    finally:
        process.terminate()
        process.wait(LIMIT)


def empty_call(channel):
    call = channel.unary_unary("/grpc.testing.TestService/EmptyCall")
    return call(b"", timeout=LIMIT, wait_for_ready=True)


def test_it_waits_for_one_to_be_free(server):
    address, process = server
    host, port = address.rsplit(":", 1)
    with grpc.insecure_channel(address) as channel:
        assert empty_call(channel) == b""
        # The system's queue takes what the server does not: they are connected, and wait in it.
        sockets = [socket.create_connection((host, int(port)), LIMIT) for _ in range(2 * DESCRIPTORS)]
        try:
            before, began = cpu_seconds(process.pid), time.monotonic()
            # Who is connected is served, all the while.
            while time.monotonic() < began + 1:
                assert empty_call(channel) == b""
                time.sleep(0.02)
            used = cpu_seconds(process.pid) - before
            assert len(os.listdir(f"/proc/{process.pid}/fd")) >= DESCRIPTORS - 1
            # A socket that stays readable would have taken all of a core.
            assert used < 0.5, f"{used} s of CPU in a second"
        finally:
            for open_socket in sockets:
                open_socket.close()
    # And goes on when there is room.
    with grpc.insecure_channel(address) as channel:
        assert empty_call(channel) == b""
