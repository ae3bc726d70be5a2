"""Calls of a server in messages that its own reflection tells of: no generated code."""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc


class Service:
    """The methods of a server's service, as attributes; and `messages`, by their short names."""

    def __init__(self, address, name):
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)])
        pool = descriptor_pool.DescriptorPool()
        stub = reflection_pb2_grpc.ServerReflectionStub(self.channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        answer = next(stub.ServerReflectionInfo(iter([request]), timeout=20, wait_for_ready=True))
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in answer.file_descriptor_response.file_descriptor_proto]
        missing = {file.name: file for file in files}

        def add(file):
            for dependency in file.dependency:
                if dependency in missing:
                    add(missing.pop(dependency))
            pool.Add(file)

        while missing:
            add(missing.pop(next(iter(missing))))
        self.descriptor = pool.FindServiceByName(name)
        self.messages = {
            message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(
                f"{file.package}.{message.name}"))
            for file in files for message in file.message_type}
        for method in self.descriptor.methods:
            setattr(self, method.name, self.call(method))

    def call(self, method):
        make = {
            (False, False): self.channel.unary_unary, (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary, (True, True): self.channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        return make(
            f"/{self.descriptor.full_name}/{method.name}",
            request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString)

    def __getitem__(self, name):
        return self.messages[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()


def retry_delay(error):
    """The seconds after which a call may be made again, as its error says; nothing if it does not."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    return info.retry_delay.ToTimedelta().total_seconds()
    return None
