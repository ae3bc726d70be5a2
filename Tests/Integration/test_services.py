"""What every service's program does, whichever it is."""

import os
import random
import signal
import socket
import subprocess
import time

import pytest
from farm import SERVICES, eventually, free_port, http, is_alive, program

NAMES = sorted(SERVICES)


def run(name, *arguments, env=None):
    return subprocess.run(
        [program(f"millrace-{name}"), *arguments], env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=30)


@pytest.mark.parametrize("name", NAMES)
def test_help_and_defaults(name):
    text = run(name, "--help").stdout
    config = run(name, "--print-config").stdout
    for setting in ("listen", "admin-listen", "data", "log-level", "drain-grace"):
        assert f"--{setting} " in text
        assert f"\n{setting}: " in config
    assert f"127.0.0.1:{SERVICES[name]}" in config
    assert run(name, "--version").stdout.startswith(f"millrace-{name} ")


@pytest.mark.parametrize("name", NAMES)
def test_wrong_settings_are_all_told(name):
    done = run(name, "--listn", "x", "--drain-grace", "soon", env={"MILLRACE_LOG_LEVEL": "loud"})
    assert done.returncode == 2
    assert "there is no flag --listn, did you mean --listen?" in done.stderr
    assert 'drain-grace cannot be "soon" (flag --drain-grace)' in done.stderr
    assert 'log-level cannot be "loud" (environment variable MILLRACE_LOG_LEVEL)' in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_port_that_is_taken_is_told_in_one_line(name, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(
            name, "--data", str(tmp_path / "data"), "--listen", f"127.0.0.1:{free_port()}",
            "--admin-listen", address)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"cannot listen on {address}: address already in use" in last


@pytest.mark.parametrize("name", ["scheduler", "executor-allocator", "plugin-runner",
                                  "datastore-gateway", "content-cache"])
def test_metrics_and_health_are_served(farm, name):
    admin = farm.process(name)["admin"]
    assert http(admin, "/healthz")[0] == 200
    assert http(admin, "/readyz")[0] == 200
    metrics = farm.metrics(name)
    assert metrics["process_resident_memory_bytes"] > 0
    assert any(key.startswith(f'millrace_build_info{{service="{name}"') for key in metrics)


@pytest.mark.parametrize("port", ["address", "admin"])
@pytest.mark.parametrize("name", NAMES)
def test_garbage_on_a_port_does_no_harm(farm, name, port):
    process = farm.process(name)
    host, number = process[port].rsplit(":", 1)
    noise = random.Random(7)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for begin in (b"", preface, preface + b"\0\0\0\4\0\0\0\0\0", b"GET / HTTP/1.1\r\n"):
        for _ in range(8):
            with socket.create_connection((host, int(number)), timeout=15) as connection:
                try:
                    connection.sendall(begin + noise.randbytes(4096))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError as error:
                    assert not isinstance(error, TimeoutError), f"{name} {port} holds on"
    assert is_alive(process["pid"])
    assert farm.process(name)["pid"] == process["pid"]
    assert http(process["admin"], "/healthz")[0] == 200


@pytest.mark.parametrize("name", ["datastore-gateway", "content-cache"])
def test_sigterm_ends_a_service_with_exit_code_0(name, tmp_path):
    service, admin = start(name, tmp_path)
    eventually(lambda: is_ready(admin), 20, f"{name} is ready")
    service.send_signal(signal.SIGTERM)
    assert service.wait(15) == 0


@pytest.mark.parametrize("name", ["datastore-gateway", "content-cache"])
def test_a_service_ends_with_the_process_that_started_it(name, tmp_path):
    admin = f"127.0.0.1:{free_port()}"
    parent = subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait', "sh", program(f"millrace-{name}"),
         "--data", str(tmp_path / "data"), "--listen", f"127.0.0.1:{free_port()}",
         "--admin-listen", admin],
        env={**os.environ, "MILLRACE_PARENT_DEATH_SIGNAL": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True)
    child = int(parent.stdout.readline())
    eventually(lambda: is_ready(admin), 20, f"{name} is ready")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not is_alive(child), 15, f"{name} has ended")


def test_a_data_directory_is_used_by_one_process(tmp_path):
    service, admin = start("content-cache", tmp_path)
    try:
        eventually(lambda: is_ready(admin), 20, "the first is ready")
        done = run(
            "content-cache", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0",
            "--admin-listen", "127.0.0.1:0")
        assert done.returncode == 1
        assert f"is used by process {service.pid}" in done.stderr
    finally:
        service.kill()
        service.wait()


def test_a_slow_admin_client_is_closed(farm):
    host, port = farm.process("scheduler")["admin"].rsplit(":", 1)
    begin = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"GET /metr")
        assert connection.recv(100) == b""
    assert 5 < time.monotonic() - begin < 15


def start(name, tmp_path):
    admin = f"127.0.0.1:{free_port()}"
    service = subprocess.Popen(
        [program(f"millrace-{name}"), "--data", str(tmp_path / "data"), "--listen",
         f"127.0.0.1:{free_port()}", "--admin-listen", admin],
        stdin=subprocess.DEVNULL, stderr=open(tmp_path / "service.log", "wb"))
    return service, admin


def is_ready(admin):
    try:
        return http(admin, "/readyz", timeout=2)[0] == 200
    except OSError:
        return False
