"""How the two programs read what gRPC's scripts say to them."""

import contextlib
import socket
import subprocess
import threading

import pytest
from conftest import BIN, LIMIT, our_server

SERVER, CLIENT = f"{BIN}/rpc-interop-server", f"{BIN}/rpc-interop-client"
TRUE = [["--use_tls"], ["--use_tls=true"], ["--use_tls", "true"]]
FALSE = [[], ["--use_tls=false"], ["--use_tls", "false"]]


def run(program, *arguments):
    """What a program says, and whether it went well."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, done.stdout + done.stderr


def one_call(port, *arguments):
    return run(CLIENT, "--server_port", port, "--test_case", "empty_unary", *arguments)


@pytest.fixture(scope="module")
def port():
    with our_server(None) as address:
        yield address.rsplit(":", 1)[-1]


@pytest.mark.parametrize("use_tls", FALSE)
def test_a_flag_may_be_false(port, use_tls):
    # ArgumentParser's flags that may be options are right where they stand last.
    status, said = one_call(port, *use_tls, "--use_test_ca=false", "--soak_iterations", "1")
    assert status == 0, said


@pytest.mark.parametrize("use_tls", TRUE)
def test_a_flag_may_be_true(port, use_tls):
    # The server does not speak TLS.
    status, said = one_call(port, *use_tls)
    assert status == 1
    assert "UNAVAILABLE" in said


@pytest.mark.parametrize("use_tls", TRUE)
def test_the_server_reads_its_flag_alike(use_tls):
    status, said = run(SERVER, *use_tls)
    assert status != 0
    assert "--use_tls wants --tls_cert_file" in said


@pytest.mark.parametrize("use_tls", ["--use_tls=false", "--use_tls false"])
def test_the_server_may_be_told_to_do_without_tls(use_tls):
    command = [SERVER, *use_tls.split(), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        said = server.stdout.readline()
        server.terminate()
    assert said.startswith("listening on ")


@pytest.mark.parametrize("program", [SERVER, CLIENT])
@pytest.mark.parametrize("use_tls", [["--use_tls=maybe"], ["--use_tls", "maybe"], ["--use_tls="]])
def test_what_is_neither_is_refused_by_name(program, use_tls):
    port = ["--server_port", "1"] if program == CLIENT else []
    status, said = run(program, *port, *use_tls)
    assert status == 64
    assert "--use_tls" in said
    assert "'maybe'" in said or use_tls == ["--use_tls="]


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_host_may_be_an_address_of_ipv6(port, host):
    with contextlib.closing(socket.socket(socket.AF_INET6)) as listener:
        try:
            listener.bind(("::1", 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
        listener.listen()

        def copy(source, target):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.close()

        def forward():
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", int(port)))
            threading.Thread(target=copy, args=(client, server), daemon=True).start()
            copy(server, client)

        threading.Thread(target=forward, daemon=True).start()
        status, said = one_call(str(listener.getsockname()[1]), "--server_host", host)
        assert status == 0, said


def test_a_service_config_is_read(port):
    name = '"name": [{"service": "grpc.testing.TestService"}]'
    short = '{"methodConfig": [{%s, "timeout": "0.000000001s"}]}' % name
    status, said = one_call(port, "--service_config_json", short)
    assert status == 1
    assert "DEADLINE_EXCEEDED" in said
    status, said = one_call(port, '--service_config_json={"methodConfig": [{}]}')
    assert status == 64
    assert '--service_config_json: methodConfig[0] has no "name"' in said


def test_metadata_is_added_to_every_call(port):
    status, said = one_call(port, "--additional_metadata=x-one:1:2;x-two-bin:AAEC")
    assert status == 0, said
    # What is no base64 cannot be sent.
    status, said = one_call(port, "--additional_metadata", "x-one:1;x-two-bin:?")
    assert status == 1
    assert "INVALID_ARGUMENT" in said and "x-two-bin" in said
    status, said = one_call(port, "--additional_metadata", "name:value;none")
    assert status == 64
    assert '--additional_metadata: "none" is no NAME:VALUE' in said


def test_a_soak_has_several_threads(port):
    soak = ["--test_case", "rpc_soak,channel_soak", "--soak_iterations", "20",
            "--soak_overall_timeout_seconds", "20",
            "--soak_per_iteration_max_acceptable_latency_ms", "20000"]
    status, said = run(CLIENT, "--server_port", port, *soak, "--soak_num_threads", "4")
    assert status == 0, said
    status, said = run(CLIENT, "--server_port", port, *soak, "--soak_num_threads", "3")
    assert status == 64
    assert "--soak_iterations is 20, --soak_num_threads 3" in said
