"""Calls of a server in messages that its own reflection tells of: no generated code."""

import uuid

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
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
    """The seconds after which a call may be made again, as its error says."""
    return int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) / 1000


def word(message, field):
    """The name of an enumeration's value: `OUTCOME_SUCCEEDED`."""
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    return values[getattr(message, field)].name


class Scheduler(Service):
    """The scheduler's calls, in the words of tests."""

    def __init__(self, address):
        super().__init__(address, "millrace.scheduler.v1.SchedulerService")

    def request(self, pipeline, key, project="tests", priority=0):
        return self["SubmitBuildRequest"](
            project=project, idempotency_key=key, pipeline=pipeline.encode(), priority=priority,
            pipeline_path="millrace.yaml")

    def submit(self, pipeline, project="tests", priority=0):
        """Submits a build and gives its id."""
        request = self.request(pipeline, uuid.uuid4().hex, project, priority)
        return self.SubmitBuild(request, timeout=20).build.id

    def build(self, build):
        """The build as it is now."""
        return self.GetBuild(self["GetBuildRequest"](build_id=build), timeout=20).build

    def wait(self, build, seconds=60):
        """The build once it is finished."""
        watch = self.WatchBuild(self["WatchBuildRequest"](build_id=build), timeout=seconds)
        last = None
        for answer in watch:
            last = answer.build
        assert last and word(last, "state") == "BUILD_STATE_FINISHED", last
        return last

    def builds(self, project, active=False):
        """All builds of a project, the newest first."""
        found, token = [], ""
        while True:
            page = self.ListBuilds(self["ListBuildsRequest"](
                project=project, page_size=1000, page_token=token, active=active), timeout=20)
            found += page.builds
            token = page.next_page_token
            if not token:
                return found

    def cancel(self, build):
        self.CancelBuild(self["CancelBuildRequest"](build_id=build), timeout=20)


def outcomes(build):
    """The outcomes of the attempts at a build's jobs, job by job."""
    return [[word(attempt, "outcome").removeprefix("OUTCOME_").lower() for attempt in job.attempts]
            for job in build.jobs]
