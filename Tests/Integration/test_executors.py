"""Executors that fall silent, lie, or take another's name; and a table that loses everything."""

import concurrent.futures
import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time

import grpc
import pytest
from farm import Farm, FurtherRunner, eventually, http, processes_with
from reflected import Scheduler, Service, outcomes, word

# Executors that are killed one after the other; more with `make soak`.
KILLS = int(os.environ.get("MILLRACE_EXECUTOR_KILLS", 6))
SMALL = {"cpu_millis": 100, "memory_bytes": 16 << 20, "slots": 1}


@pytest.fixture(scope="module")
def stack():
    with Farm(runners=2) as farm:
        yield farm


@pytest.fixture(scope="module")
def allocator(stack):
    name = "millrace.allocator.v1.AllocatorService"
    with Service(stack.process("executor-allocator")["address"], name) as service:
        yield service


@pytest.fixture(scope="module")
def scheduler(stack):
    with Scheduler(stack.process("scheduler")["address"]) as scheduler:
        yield scheduler


@pytest.fixture(scope="module")
def roomy(stack, allocator):
    """Two further runners, each with room for several jobs; what their jobs ask for to get there."""
    with contextlib.ExitStack() as started:
        for name in ("roomy-1", "roomy-2"):
            started.enter_context(FurtherRunner(
                stack, name, "--labels", "roomy", "--cpu", "1", "--slots", "8"))
        eventually(
            lambda: {"roomy-1", "roomy-2"} <= executors(allocator).keys(), 30, "they are there")
        yield "roomy"


def executors(allocator):
    """All that there are, by name; nothing while the allocator cannot tell."""
    try:
        answer = allocator.ListExecutors(allocator["ListExecutorsRequest"](), timeout=5)
    except grpc.RpcError:
        return {}
    return {executor.id: executor for executor in answer.executors}


def leases(allocator):
    return {lease.id for executor in executors(allocator).values() for lease in executor.leases}


def last_heartbeat(executor):
    return executor.last_heartbeat.ToNanoseconds() / 1e9


def running(scheduler, build, number=1):
    """An attempt at a build's only job, once its step runs."""
    attempts = scheduler.build(build).jobs[0].attempts
    return attempts[number - 1] if len(attempts) >= number and attempts[number - 1].steps else None


def wait_running(scheduler, build, number=1, seconds=40):
    return eventually(
        lambda: running(scheduler, build, number), seconds, f"attempt {number} at {build} runs")


def sleeper(cpu, seconds=1000, runs_on="{pool: default}"):
    return f"""
jobs:
  one:
    runs-on: {runs_on}
    resources: {{cpu: {cpu}, memory: 16MiB}}
    steps:
      - run: sleep {seconds}
"""


def test_a_paused_executor_is_suspect_then_lost_and_stops_what_it_lost(
        stack, allocator, scheduler):
    build = scheduler.submit(sleeper(stack.cpu_of_a_runner()))
    name = wait_running(scheduler, build).executor_id
    pid = stack.process(f"plugin-{name}")["pid"]
    marks = [f"MILLRACE_ATTEMPT={build}/one/{number}" for number in (1, 2)]
    os.kill(pid, signal.SIGSTOP)
    try:
        heard = last_heartbeat(executors(allocator)[name])
        suspected = []

        def is_lost():
            executor = executors(allocator).get(name)
            if executor and word(executor, "state") == "EXECUTOR_STATE_SUSPECT":
                suspected.append(time.time())
            return executor is None

        eventually(is_lost, 20, f"{name} is lost")
        lost = time.time()
        assert 3 <= suspected[0] - heard < 5, suspected[0] - heard
        assert 5 <= lost - heard < 8, lost - heard
        assert wait_running(scheduler, build, 2, 15).executor_id != name
        assert time.time() - heard < 15
        # Its runner cannot end it yet.
        assert processes_with(marks[0])
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not processes_with(marks[0]), 20, "what was lost has ended")
    assert stack.process(f"plugin-{name}")["pid"] == pid
    eventually(lambda: name in executors(allocator), 10, f"{name} is back")
    assert outcomes(scheduler.build(build)) == [["executor_lost", "unspecified"]]
    # A step has begun a moment before its process.
    eventually(lambda: processes_with(marks[1]), 10, "the second attempt has a process")
    scheduler.cancel(build)


class Feeder(threading.Thread):
    """Submits one build after the other, each a job that leaves no room for a second of its kind."""

    def __init__(self, scheduler, runs_on, stopping):
        super().__init__()
        self.scheduler, self.stopping = scheduler, stopping
        self.pipeline = sleeper("600m", 0.2, runs_on)
        self.builds = []

    def run(self):
        while not self.stopping.is_set():
            self.builds.append(self.scheduler.wait(self.scheduler.submit(self.pipeline, "fed")))


def test_an_emptied_table_is_whole_again_and_no_share_was_leased_twice(
        stack, allocator, scheduler, roomy):
    kept = [scheduler.submit(sleeper("100m", runs_on=roomy), "kept") for _ in range(4)]
    held = {wait_running(scheduler, build).lease_id for build in kept}
    eventually(lambda: held <= leases(allocator), 5, "their leases are known")
    stopping = threading.Event()
    # More than there is room for.
    feeders = [Feeder(scheduler, roomy, stopping) for _ in range(4)]
    for feeder in feeders:
        feeder.start()
    try:
        for way in ("flushall", "kill", "flushall"):
            counts = [len(feeder.builds) for feeder in feeders]
            redis = stack.process("redis")
            begin = time.monotonic()
            if way == "kill":
                stack.kill("redis")
            else:
                subprocess.run(
                    ["redis-cli", "-s", redis["address"].removeprefix("unix:"), way], check=True,
                    stdout=subprocess.DEVNULL)
            eventually(lambda: held <= leases(allocator), 20, f"all is known again after {way}")
            took = time.monotonic() - begin
            assert took < 5, f"{took} s after {way}"
            eventually(
                lambda: all(len(f.builds) > count + 1 for f, count in zip(feeders, counts)), 40,
                "builds go on")
    finally:
        stopping.set()
        for feeder in feeders:
            feeder.join()
    fed = [build for feeder in feeders for build in feeder.builds]
    assert all(word(build, "outcome") == "OUTCOME_SUCCEEDED" for build in fed), fed
    # What ran on one executor ran one after the other, each under a newer token, or under the lease that the one
    # before had had.
    runs = {}
    for attempt in (attempt for build in fed for attempt in build.jobs[0].attempts):
        for step in attempt.steps:
            runs.setdefault(attempt.executor_id, []).append((
                step.started_at.ToNanoseconds(), step.finished_at.ToNanoseconds(),
                attempt.fencing_token, attempt.lease_id))
    assert len(runs) == 2
    for on_one in runs.values():
        on_one.sort()
        for (_, end, token, lease), (begin, _, newer, next_lease) in zip(on_one, on_one[1:]):
            assert end <= begin, on_one
            assert (token, lease) == (newer, next_lease) or token < newer, on_one
    # Nobody took what was held for gone.
    assert [outcomes(scheduler.build(build)) for build in kept] == [[["unspecified"]]] * 4
    for build in kept:
        scheduler.cancel(build)


class Liar:
    """An executor that offers what it refuses to give."""

    def __init__(self, runner, allocator, name, **capacity):
        self.runner, self.allocator, self.name, self.capacity = runner, allocator, name, capacity
        self.asked = []
        self.stopping = threading.Event()

    def __enter__(self):
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers([self])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.beat(**self.capacity)
        self.thread = threading.Thread(target=self.keep_alive)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()
        self.server.stop(None)
        self.allocator.Deregister(
            self.allocator["DeregisterRequest"](executor_id=self.name, incarnation="1"), timeout=5)

    def keep_alive(self):
        while not self.stopping.wait(0.5):
            with contextlib.suppress(grpc.RpcError):
                self.beat(**self.capacity)

    def beat(self, **capacity):
        return self.allocator.Heartbeat(self.allocator["HeartbeatRequest"](
            executor_id=self.name, incarnation="1", address=f"127.0.0.1:{self.port}",
            labels=["linux"], capacity=capacity), timeout=5)

    def service(self, call):
        method = call.method.rsplit("/", 1)[1]
        make = self.runner[f"{method}Request"].FromString
        if method == "RunJob":
            return grpc.unary_stream_rpc_method_handler(self.run_job, request_deserializer=make)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self.runner[f"{method}Response"]().SerializeToString(),
            request_deserializer=make)

    def run_job(self, request, context):
        self.asked.append(request.job.attempt_id)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "there is no such room")


def test_a_runner_that_lies_about_its_capacity_holds_nobody_up(stack, allocator, scheduler):
    runner = Service(
        stack.process("plugin-runner")["address"], "millrace.runner.v1.RunnerService")
    with runner, contextlib.ExitStack() as liars:
        # One fits small jobs more tightly than any real one; only the other fits a large one.
        tight = liars.enter_context(Liar(runner, allocator, "tight", **SMALL))
        wide = liars.enter_context(Liar(
            runner, allocator, "wide", cpu_millis=500_000, memory_bytes=64 << 30, slots=500))
        large = scheduler.submit(sleeper("400"))
        for number in range(4):
            # Of a project that no executor is warm for.
            build = scheduler.wait(scheduler.submit(sleeper("100m", 0), f"deceived-{number}"))
            assert word(build, "outcome") == "OUTCOME_SUCCEEDED", build
            attempts = build.jobs[0].attempts
            assert attempts[-1].executor_id not in (tight.name, wide.name)
            assert len(attempts) <= 3, attempts
        assert tight.asked and wide.asked
        attempts = scheduler.build(large).jobs[0].attempts
        assert "there is no such room" in attempts[0].message, attempts
        # It rests between its attempts.
        assert len(attempts) < 12, attempts
        for impossible, words in [
            ({"cpu_millis": -1}, "cpu_millis is -1"),
            ({"memory_bytes": 1 << 62}, "memory_bytes is"),
            ({"slots": 1 << 30}, "slots is"),
        ]:
            with pytest.raises(grpc.RpcError) as error:
                tight.beat(**{**SMALL, **impossible})
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert words in error.value.details()
        scheduler.cancel(large)


def test_of_two_runners_with_one_name_the_second_is_turned_away(stack, allocator, scheduler):
    name = "runner-1"
    first = executors(allocator)[name]
    with FurtherRunner(stack, name) as second:
        def refusal():
            try:
                status, text = http(second.admin, "/readyz", timeout=2)
            except OSError:
                return None
            return status == 503 and "is alive at" in text and text

        text = eventually(refusal, 20, "the second says that it is not ready")
        assert name in text and first.address in text, text
        assert "the executor-allocator refuses this executor" in text, text
        with open(second.log) as log:
            assert log.read().count("refuses this executor") == 1
        assert executors(allocator)[name].address == first.address
        build = scheduler.wait(scheduler.submit(sleeper("100m", 0)))
        assert outcomes(build) == [["succeeded"]]
        second.process.terminate()
        assert second.process.wait(20) == 0
    assert executors(allocator)[name].address == first.address


def test_jobs_of_lost_executors_soon_run_elsewhere(stack, allocator, scheduler, capfd):
    with contextlib.ExitStack() as started:
        def start(name, cpu):
            return started.enter_context(FurtherRunner(
                stack, name, "--labels", "extra", "--cpu", str(cpu), "--slots", str(cpu)))

        doomed = {f"extra-{number}": start(f"extra-{number}", 1) for number in range(KILLS)}
        eventually(lambda: doomed.keys() <= executors(allocator).keys(), 60, "all are there")
        # One for each; the one that takes them all comes later.
        builds = {}
        for number in range(KILLS):
            build = scheduler.submit(sleeper("800m", runs_on="extra"), f"lost-{number % 4}")
            builds[wait_running(scheduler, build).executor_id] = build
        assert builds.keys() == doomed.keys()
        start("spare", KILLS)
        eventually(lambda: "spare" in executors(allocator), 60, "the spare one is there")
        heard = {}
        for name, runner in doomed.items():
            runner.kill()
            heard[name] = last_heartbeat(executors(allocator)[name])
            time.sleep(0.15)
        took = []
        for name, build in builds.items():
            step = wait_running(scheduler, build, 2).steps[0]
            took.append(step.started_at.ToNanoseconds() / 1e9 - heard[name])
            assert outcomes(scheduler.build(build))[0][0] == "executor_lost"
        for build in builds.values():
            scheduler.cancel(build)
    with capfd.disabled():
        print(f"\nexecutors: {KILLS} killed; from the last sign of life to the job's step elsewhere: "
              f"{min(took):.1f} to {max(took):.1f} s, median {statistics.median(took):.1f} s",
              flush=True)
    assert max(took) <= 15 and statistics.median(took) <= 8, took
