"""gRPC's interoperability cases between Millrace's RPC library and grpcio, both ways."""

import importlib.resources
import pathlib
import sys
import threading
import time
from concurrent import futures

import pytest
from conftest import LIMIT, NAME, our_server, run_our_client

grpc = pytest.importorskip("grpc")
protoc = pytest.importorskip("grpc_tools.protoc")
PROTO = pathlib.Path(__file__).parent.parent / "proto"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
REQUESTS, RESPONSES = (27182, 8, 1828, 45904), (31415, 9, 2653, 58979)


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """The messages and stubs that grpcio's own generator makes of the proto."""
    out = tmp_path_factory.mktemp("protos")
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    command = ["", f"-I{PROTO}", f"-I{well_known}", f"--python_out={out}",
               f"--grpc_python_out={out}"]
    orca = ["xds/data/orca/v3/orca_load_report.proto", "xds/service/orca/v3/orca.proto"]
    assert protoc.main([*command, "interop.proto", *orca]) == 0
    sys.path.insert(0, str(out))
    import interop_pb2
    import interop_pb2_grpc

    return interop_pb2, interop_pb2_grpc


@pytest.fixture(scope="session")
def channel(tls):
    """A grpcio channel to our server."""
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with our_server(tls) as address:
        if tls:
            trusted = grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes())
            options.append(("grpc.ssl_target_name_override", NAME))
            new_channel = grpc.secure_channel(address, trusted, options=options)
        else:
            new_channel = grpc.insecure_channel(address, options=options)
        with new_channel as open_channel:
            yield open_channel


@pytest.fixture
def client(channel, stubs):
    return stubs[1].TestServiceStub(channel)


def payload(pb, size):
    return pb.Payload(body=bytes(size))


def output(pb, sizes, body=0, interval=0):
    parameters = [pb.ResponseParameters(size=size, interval_us=interval) for size in sizes]
    return pb.StreamingOutputCallRequest(
        response_parameters=parameters, payload=payload(pb, body)
    )


def failure(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


class Requests:
    """Requests that are handed over one by one."""

    def __init__(self, *first):
        self.pending, self.changed, self.closed = list(first), threading.Condition(), False

    def put(self, request):
        with self.changed:
            self.pending.append(request)
            self.changed.notify()

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.changed:
            self.changed.wait_for(lambda: self.pending or self.closed)
            if self.pending:
                return self.pending.pop(0)
            raise StopIteration


def test_empty_unary(client, stubs):
    assert client.EmptyCall(stubs[0].Empty(), timeout=LIMIT) == stubs[0].Empty()


def test_large_unary(client, stubs):
    request = stubs[0].SimpleRequest(response_size=314159, payload=payload(stubs[0], 271828))
    assert len(client.UnaryCall(request, timeout=LIMIT).payload.body) == 314159


def test_cacheable_unary(client, stubs):
    request = stubs[0].SimpleRequest(payload=stubs[0].Payload(body=b"now"))
    response, call = client.CacheableUnaryCall.with_call(request, timeout=LIMIT)
    assert response.payload.body == b"now"
    assert "max-age" in dict(call.initial_metadata())["cache-control"]


def test_client_compressed_unary(client, stubs):
    pb = stubs[0]

    def call(expected, compression=None):
        request = pb.SimpleRequest(
            response_size=314159,
            payload=payload(pb, 271828),
            expect_compressed=pb.BoolValue(value=expected),
        )
        return client.UnaryCall(request, timeout=LIMIT, compression=compression)

    # Our server notices both.
    for mistaken in (lambda: call(True), lambda: call(False, grpc.Compression.Gzip)):
        assert failure(mistaken).code() == grpc.StatusCode.INVALID_ARGUMENT
    for response in (
        call(True, grpc.Compression.Gzip),
        call(True, grpc.Compression.Deflate),
        call(False),
    ):
        assert len(response.payload.body) == 314159


def test_client_compressed_streaming(client, stubs):
    pb = stubs[0]

    def call(compression=None):
        requests = [
            pb.StreamingInputCallRequest(
                payload=payload(pb, size), expect_compressed=pb.BoolValue(value=True)
            )
            for size in (27182, 45904)
        ]
        return client.StreamingInputCall(iter(requests), timeout=LIMIT, compression=compression)

    assert failure(call).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert call(grpc.Compression.Gzip).aggregated_payload_size == 73086


def test_server_compressed_unary(client, stubs):
    pb = stubs[0]
    for value in (True, False):
        request = pb.SimpleRequest(
            response_size=314159, response_compressed=pb.BoolValue(value=value)
        )
        assert len(client.UnaryCall(request, timeout=LIMIT).payload.body) == 314159


def test_server_compressed_streaming(client, stubs):
    request = output(stubs[0], [31415, 92653])
    request.response_parameters[0].compressed.value = True
    request.response_parameters[1].compressed.value = False
    responses = client.StreamingOutputCall(request, timeout=LIMIT)
    assert [len(response.payload.body) for response in responses] == [31415, 92653]


def test_client_streaming(client, stubs):
    pb = stubs[0]
    requests = (pb.StreamingInputCallRequest(payload=payload(pb, size)) for size in REQUESTS)
    assert client.StreamingInputCall(requests, timeout=LIMIT).aggregated_payload_size == 74922


def test_server_streaming(client, stubs):
    responses = client.StreamingOutputCall(output(stubs[0], RESPONSES), timeout=LIMIT)
    assert [len(response.payload.body) for response in responses] == list(RESPONSES)


def test_ping_pong(client, stubs):
    requests = Requests()
    call = client.FullDuplexCall(requests, timeout=LIMIT)
    for request, response in zip(REQUESTS, RESPONSES):
        requests.put(output(stubs[0], [response], request))
        assert len(next(call).payload.body) == response
    requests.close()
    assert list(call) == []


def test_empty_stream(client):
    assert list(client.FullDuplexCall(iter(()), timeout=LIMIT)) == []


def test_timeout_on_sleeping_server(client, stubs):
    requests = Requests(output(stubs[0], [31415], 27182, 2_000_000))
    error = failure(lambda: list(client.FullDuplexCall(requests, timeout=0.001)))
    requests.close()
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_deadline_while_the_server_streams(client, stubs):
    request = output(stubs[0], [10] * 50, interval=200_000)
    error = failure(lambda: list(client.StreamingOutputCall(request, timeout=0.5)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_cancel_after_begin(client):
    requests = Requests()
    call = client.StreamingInputCall.future(requests, timeout=LIMIT)
    call.cancel()
    requests.close()
    assert call.cancelled() and call.code() == grpc.StatusCode.CANCELLED


def test_cancel_after_first_response(client, stubs):
    requests = Requests(output(stubs[0], [31415], 27182))
    call = client.FullDuplexCall(requests, timeout=LIMIT)
    next(call)
    call.cancel()
    requests.close()
    assert failure(lambda: next(call)).code() == grpc.StatusCode.CANCELLED


def test_custom_metadata(client, stubs):
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
    request = stubs[0].SimpleRequest(response_size=1)
    _, call = client.UnaryCall.with_call(request, timeout=LIMIT, metadata=metadata)
    assert dict(call.initial_metadata())[INITIAL] == "test_initial_metadata_value"
    assert dict(call.trailing_metadata())[TRAILING] == b"\xab\xab\xab"


@pytest.mark.parametrize(
    "message",
    ["test status message", "\t\nwith whitespace\r\n and \u263a and \U0001f608\t\n"],
)
def test_status(client, stubs, message):
    pb = stubs[0]
    status = pb.EchoStatus(code=2, message=message)
    unary = failure(
        lambda: client.UnaryCall(pb.SimpleRequest(response_status=status), timeout=LIMIT)
    )
    request = pb.StreamingOutputCallRequest(response_status=status)
    stream = failure(lambda: list(client.FullDuplexCall(iter([request]), timeout=LIMIT)))
    for error in (unary, stream):
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, message)


def test_unimplemented(client, channel, stubs):
    pb, services = stubs
    other = services.UnimplementedServiceStub(channel)
    for call in (client.UnimplementedCall, other.UnimplementedCall):
        error = failure(lambda: call(pb.Empty(), timeout=LIMIT))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_4_mib_is_refused(client, stubs):
    request = stubs[0].SimpleRequest(payload=payload(stubs[0], 5 << 20))
    error = failure(lambda: client.UnaryCall(request, timeout=LIMIT))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_thousand_calls_at_once(client, stubs):
    calls = [
        client.UnaryCall.future(stubs[0].SimpleRequest(response_size=size), timeout=2 * LIMIT)
        for size in range(1000)
    ]
    assert [len(call.result().payload.body) for call in calls] == list(range(1000))


def test_streams_of_many_and_of_large_messages(client, stubs):
    many = client.StreamingOutputCall(output(stubs[0], [100] * 10_000), timeout=2 * LIMIT)
    assert sum(1 for _ in many) == 10_000
    large = client.StreamingOutputCall(output(stubs[0], [1 << 20] * 32), timeout=2 * LIMIT)
    assert sum(len(response.payload.body) for response in large) == 32 << 20


def test_health_and_reflection(channel):
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    health_grpc = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
    reflection = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2")
    health = health_grpc.HealthStub(channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    unknown = failure(
        lambda: health.Check(health_pb2.HealthCheckRequest(service="none"), timeout=LIMIT)
    )
    assert unknown.code() == grpc.StatusCode.NOT_FOUND
    for version in ("v1", "v1alpha"):
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection.ServerReflectionResponse.FromString,
        )
        requests = [
            reflection.ServerReflectionRequest(list_services=""),
            reflection.ServerReflectionRequest(file_containing_symbol="grpc.testing.TestService"),
            reflection.ServerReflectionRequest(file_by_filename="no/such.proto"),
        ]
        listed, file, missing = ask(iter(requests), timeout=LIMIT)
        names = [service.name for service in listed.list_services_response.service]
        assert "grpc.testing.TestService" in names
        assert file.file_descriptor_response.file_descriptor_proto
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_load_reports_beside_calls(client, stubs, channel):
    # Those of a call, in its trailers, grpcio keeps from its callers.
    from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
    from xds.service.orca.v3 import orca_pb2, orca_pb2_grpc

    pb = stubs[0]
    wanted = pb.TestOrcaReport(
        cpu_utilization=0.821, memory_utilization=0.5847, utilization={"util": 0.30499})
    expected = OrcaLoadReport(
        cpu_utilization=0.821, mem_utilization=0.5847, utilization={"util": 0.30499})
    request = pb.StreamingOutputCallRequest(
        orca_oob_report=wanted, response_parameters=[pb.ResponseParameters(size=1)])
    assert len(list(client.FullDuplexCall(iter([request]), timeout=LIMIT))) == 1
    stream = orca_pb2_grpc.OpenRcaServiceStub(channel).StreamCoreMetrics(
        orca_pb2.OrcaLoadReportRequest(), timeout=LIMIT)
    assert [next(stream), next(stream)] == [expected, expected]
    stream.cancel()


def serve(stubs, tls):
    """grpcio's server for our client."""
    pb, services = stubs
    codes = {code.value[0]: code for code in grpc.StatusCode}
    # Made together with the others, and to be imported only then.
    from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
    from xds.service.orca.v3 import orca_pb2_grpc

    def report(wanted):
        return OrcaLoadReport(
            cpu_utilization=wanted.cpu_utilization, mem_utilization=wanted.memory_utilization,
            request_cost=wanted.request_cost, utilization=wanted.utilization)

    class LoadReports(orca_pb2_grpc.OpenRcaServiceServicer):
        last = OrcaLoadReport()

        def StreamCoreMetrics(self, request, context):
            while context.is_active():
                yield self.last
                time.sleep(request.report_interval.ToTimedelta().total_seconds())

    reports = LoadReports()

    class Service(services.TestServiceServicer):
        def metadata(self, context, *more):
            received = dict(context.invocation_metadata())
            if INITIAL in received:
                context.send_initial_metadata(((INITIAL, received[INITIAL]),))
            trailing = [(TRAILING, received[TRAILING])] if TRAILING in received else []
            context.set_trailing_metadata([*trailing, *more])

        def status(self, request, context):
            if request.response_status.code:
                context.abort(codes[request.response_status.code], request.response_status.message)

        def EmptyCall(self, request, context):
            return pb.Empty()

        def UnaryCall(self, request, context):
            if request.response_compressed.value:
                context.set_compression(grpc.Compression.Gzip)
            load = report(request.orca_per_query_report).SerializeToString()
            has_load = request.HasField("orca_per_query_report")
            self.metadata(context, *[("endpoint-load-metrics-bin", load)] * has_load)
            self.status(request, context)
            return pb.SimpleResponse(payload=payload(pb, request.response_size))

        def CacheableUnaryCall(self, request, context):
            return pb.SimpleResponse(payload=request.payload)

        def StreamingOutputCall(self, request, context):
            if any(parameter.compressed.value for parameter in request.response_parameters):
                context.set_compression(grpc.Compression.Gzip)
            yield from self.responses(request, context)

        def responses(self, request, context):
            for parameter in request.response_parameters:
                time.sleep(parameter.interval_us / 1e6)
                if not parameter.compressed.value:
                    context.disable_next_message_compression()
                yield pb.StreamingOutputCallResponse(payload=payload(pb, parameter.size))

        def StreamingInputCall(self, requests, context):
            size = sum(len(request.payload.body) for request in requests)
            return pb.StreamingInputCallResponse(aggregated_payload_size=size)

        def FullDuplexCall(self, requests, context):
            self.metadata(context)
            for request in requests:
                self.status(request, context)
                if request.HasField("orca_oob_report"):
                    reports.last = report(request.orca_oob_report)
                yield from self.responses(request, context)

    server = grpc.server(futures.ThreadPoolExecutor(16))
    services.add_TestServiceServicer_to_server(Service(), server)
    orca_pb2_grpc.add_OpenRcaServiceServicer_to_server(reports, server)
    if tls:
        identity = ((tls / "server.key").read_bytes(), (tls / "server.pem").read_bytes())
        credentials = grpc.ssl_server_credentials([identity])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def test_our_client_against_grpcio(stubs, tls):
    server, port = serve(stubs, tls)
    # grpcio's server does not tell its handlers which requests came compressed.
    try:
        run_our_client(port, tls, "--skip_compressed_probe", "--soak_iterations", "3")
    finally:
        server.stop(None)
