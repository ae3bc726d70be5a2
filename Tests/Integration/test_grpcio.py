"""grpcio, the gRPC of others, talks to every service."""

import grpc
import pytest
from farm import SERVICES
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

NAMES = sorted(SERVICES)
OWN_SERVICES = {
    "scheduler": "millrace.scheduler.v1.SchedulerService",
    "datastore-gateway": "google.datastore.v1.Datastore",
    "content-cache": "google.bytestream.ByteStream",
}


@pytest.fixture
def channel(farm, request):
    with grpc.insecure_channel(farm.process(request.param)["address"]) as channel:
        yield channel


@pytest.mark.parametrize("channel", NAMES, indirect=True)
def test_health_says_serving(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    # In a farm that has just begun a service serves once it has found those that it needs.
    answers = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
    assert any(answer.status == serving for answer in answers)
    answers.cancel()
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == serving
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=10)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("channel", NAMES, indirect=True)
def test_reflection_tells_services_and_files(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([request]), timeout=10, wait_for_ready=True))
    names = {service.name for service in answer.list_services_response.service}
    assert "grpc.health.v1.Health" in names
    for name in names:
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        answer = next(stub.ServerReflectionInfo(iter([request]), timeout=10))
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in answer.file_descriptor_response.file_descriptor_proto]
        assert any(
            f"{file.package}.{service.name}" == name for file in files for service in file.service)


@pytest.mark.parametrize("channel,service", OWN_SERVICES.items(), indirect=["channel"])
def test_each_service_offers_its_own(channel, service):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([request]), timeout=10, wait_for_ready=True))
    assert service in {service.name for service in answer.list_services_response.service}


@pytest.mark.parametrize("channel", NAMES, indirect=True)
def test_an_unknown_method_is_unimplemented(channel):
    call = channel.unary_unary("/no.such.Service/Method", lambda x: x, lambda x: x)
    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=10, wait_for_ready=True)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("channel", NAMES, indirect=True)
def test_an_oversized_message_is_refused_and_the_connection_lives_on(channel):
    call = channel.unary_unary("/grpc.health.v1.Health/Check", lambda x: x, lambda x: x)
    with pytest.raises(grpc.RpcError) as error:
        call(b"\0" * (20 << 20), timeout=30, wait_for_ready=True)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("channel", NAMES, indirect=True)
def test_a_message_that_cannot_be_read_is_an_error_of_its_call(channel):
    call = channel.unary_unary("/grpc.health.v1.Health/Check", lambda x: x, lambda x: x)
    with pytest.raises(grpc.RpcError) as error:
        call(b"\x0a\xff\xff\xff\xff", timeout=10, wait_for_ready=True)
    assert error.value.code() in (
        grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN)
