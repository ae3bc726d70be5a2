"""Two schedulers over one gateway: they share the projects, answer alike, and replace each other."""

import contextlib
import json
import os
import signal
import subprocess
import time

import pytest
from farm import Farm, eventually, free_port, http, is_alive, program

PIPELINE = """
jobs:
  leg:
    resources: {cpu: 100m, memory: 16MiB}
    steps:
      - run: echo begin; sleep 4; echo end
"""

# Enough that each of two schedulers has some.
PROJECTS = [f"team/app-{number}" for number in range(8)]


class Scheduler:
    """A further scheduler of a farm."""

    def __init__(self, farm):
        self.farm = farm
        self.address = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.log = os.path.join(farm.folder, f"scheduler-{self.address.rsplit(':')[-1]}.log")
        self.process = None

    def start(self):
        with open(os.path.join(self.farm.data, "stack.json")) as file:
            addresses = json.load(file)["addresses"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [program("millrace-scheduler"), "--listen", self.address, "--admin-listen",
                 self.admin, "--gateway", addresses["gateway"], "--allocator",
                 addresses["allocator"]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def metric(self, name):
        return metric(self.admin, name)

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


def metric(admin, name):
    """A metric of the scheduler that is administered there; nothing if it does not answer."""
    try:
        _, text = http(admin, "/metrics", timeout=2)
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"millrace_scheduler_{name} "):
            return float(line.rsplit(" ", 1)[1])
    return None


class Pair:
    def __init__(self, farm):
        self.farm = farm
        self.second = Scheduler(farm)

    @property
    def first_admin(self):
        return self.farm.process("scheduler")["admin"]

    @property
    def addresses(self):
        return [self.farm.process("scheduler")["address"], self.second.address]

    def owned(self):
        return [metric(self.first_admin, "partitions"), self.second.metric("partitions")]

    def wait_shared(self):
        eventually(lambda: self.owned() == [32, 32], 15, "both own half")
        eventually(lambda: http(self.second.admin, "/readyz")[0] == 200, 10, "the second is ready")

    def submit_all(self):
        """A build of each project, by either scheduler in turn."""
        return [
            self.farm.submit(
                PIPELINE, "--project", project, "--scheduler", self.addresses[number % 2])
            for number, project in enumerate(PROJECTS)]

    def build(self, build, address):
        """The build as a scheduler knows it."""
        text = self.farm.cli(
            "explain", build, "--scheduler", address, "--output", "json", code=0).out
        return json.loads(text)["build"]

    def told_why(self, address):
        """The builds of which a list says why they wait."""
        text = self.farm.cli(
            "builds", "--active", "--scheduler", address, "--output", "json", code=0).out
        return {build["id"] for build in json.loads(text)["builds"]
                if "pool nowhere" in build["jobs"][0]["waitingFor"]}

    def wait_running(self, builds):
        address = self.addresses[0]
        eventually(
            lambda: all(
                any(a["steps"] for j in self.build(b, address)["jobs"] for a in j["attempts"])
                for b in builds),
            40, "all builds run")

    def check_once(self, builds):
        """Every build has succeeded with one attempt, and nothing of its log is lost."""
        for build in builds:
            ended = self.farm.wait(build, seconds=60)
            assert ended["outcome"] == "succeeded", ended
            assert [a["outcome"] for a in ended["jobs"][0]["attempts"]] == ["succeeded"], ended
            assert self.farm.cli("logs", build, code=0).out.split() == ["begin", "end"]


@pytest.fixture
def pair():
    with Farm(runners=1) as farm:
        pair = Pair(farm)
        pair.second.start()
        with contextlib.ExitStack() as stack:
            stack.callback(pair.second.end)
            pair.wait_shared()
            yield pair


def test_calls_to_either_are_answered_alike(pair):
    long = PIPELINE.replace("sleep 4", "sleep 600")
    cancelled = [pair.farm.submit(long, "--project", project) for project in PROJECTS[:2]]
    for build in cancelled:
        for address in pair.addresses:
            pair.farm.cli("cancel", build, "--scheduler", address, code=0)
    builds = pair.submit_all()
    for build in builds:
        projects = {pair.build(build, address)["project"] for address in pair.addresses}
        assert len(projects) == 1
    pair.check_once(builds)
    ends = [
        [pair.build(build, address) for build in [*cancelled, *builds]]
        for address in pair.addresses]
    assert ends[0] == ends[1]
    assert [build["outcome"] for build in ends[0]] == ["cancelled"] * 2 + ["succeeded"] * 8
    for address in pair.addresses:
        listed = json.loads(
            pair.farm.cli("builds", "--scheduler", address, "--output", "json", code=0).out)
        assert {build["id"] for build in listed["builds"]} == {*cancelled, *builds}
        pair.farm.cli("watch", builds[0], "--no-logs", "--scheduler", address, code=0)
        missing = pair.farm.cli("watch", "nobody", "--scheduler", address)
        assert missing.code == 2, missing
    # One that is over is opened again by whoever is asked, and ended by the other.
    for build in cancelled:
        pair.farm.cli("retry", build, "--scheduler", pair.addresses[0], code=0)
        assert pair.build(build, pair.addresses[1])["state"] != "finished"
        pair.farm.cli("cancel", build, "--scheduler", pair.addresses[1], code=0)
        assert pair.build(build, pair.addresses[0])["outcome"] == "cancelled"
    # What no record says, only the owner knows: why each waits.
    nowhere = PIPELINE.replace("leg:", "leg:\n    runs-on: {pool: nowhere}")
    waiting = {pair.farm.submit(nowhere, "--project", project) for project in PROJECTS}
    for address in pair.addresses:
        eventually(lambda: pair.told_why(address) >= waiting, 15, f"{address} lists why they wait")
    forwarded = [
        metric(pair.first_admin, "forwarded_calls_total"),
        pair.second.metric("forwarded_calls_total")]
    assert all(count > 0 for count in forwarded), forwarded


def test_a_killed_ones_builds_go_on_with_the_other(pair):
    builds = pair.submit_all()
    pair.wait_running(builds)
    pair.second.process.kill()
    pair.second.process.wait()
    begin = time.monotonic()
    eventually(lambda: metric(pair.first_admin, "partitions") == 64, 10, "the other owns all")
    took = time.monotonic() - begin
    assert took < 5, f"{took} s"
    pair.check_once(builds)


def test_a_stopped_ones_writes_fail_and_it_learns_of_it(pair):
    builds = pair.submit_all()
    pair.wait_running(builds)
    pair.second.process.send_signal(signal.SIGSTOP)
    eventually(lambda: metric(pair.first_admin, "partitions") == 64, 10, "the other owns all")
    # The builds end while it is stopped; it wakes with events of runners that it must not record.
    pair.check_once(builds)
    ends = [pair.build(build, pair.addresses[0]) for build in builds]
    pair.second.process.send_signal(signal.SIGCONT)
    eventually(lambda: (pair.second.metric("fenced_total") or 0) >= 1, 10, "it learns of it")
    pair.wait_shared()
    assert [pair.build(build, pair.addresses[1]) for build in builds] == ends
    later = pair.submit_all()
    pair.check_once(later)


def test_one_that_is_told_to_end_hands_over(pair):
    builds = pair.submit_all()
    pair.wait_running(builds)
    begin = time.monotonic()
    pair.second.process.send_signal(signal.SIGTERM)
    eventually(lambda: metric(pair.first_admin, "partitions") == 64, 10, "the other owns all")
    took = time.monotonic() - begin
    # Nobody had to be given up for dead.
    assert took < 2.5, f"{took} s"
    assert pair.second.process.wait(20) == 0
    assert not is_alive(pair.second.process.pid)
    pair.check_once(builds)
