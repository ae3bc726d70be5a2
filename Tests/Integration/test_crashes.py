"""Whatever is killed: no answered build is lost, none is finished twice, every one ends."""

import glob
import os
import signal
import subprocess

import pytest
from farm import Farm, eventually, is_alive, processes_with
from receiver import Receiver

# Three legs and a job behind them; long enough to be hit while it waits and while it runs.
PIPELINE = """
jobs:
  leg:
    strategy:
      matrix:
        number: [1, 2, 3]
    resources: {cpu: 1, memory: 64MiB}
    steps:
      - run: echo begin ${{ matrix.number }}; sleep 0.6; echo end ${{ matrix.number }}
  last:
    needs: leg
    resources: {cpu: 1, memory: 64MiB}
    steps:
      - run: sleep 0.2
notify:
  - uses: webhook
    with: {url: "URL", secret: "SECRET"}
"""
BUILDS = 6


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def submit_all(farm, receiver):
    pipeline = PIPELINE.replace("URL", receiver.url).replace("SECRET", receiver.secret)
    return [farm.submit(pipeline) for _ in range(BUILDS)]


def check_all(farm, receiver, builds, attempts_allowed):
    """Every build ended once: finished, complete, told of by one notification."""
    for build in builds:
        ended = farm.wait(build, seconds=120)
        assert ended["outcome"] == "succeeded", ended
        for job in ended["jobs"]:
            assert job["outcome"] == "succeeded"
            outcomes = [attempt["outcome"] for attempt in job["attempts"]]
            assert outcomes.count("succeeded") == 1, outcomes
            assert len(outcomes) <= attempts_allowed, outcomes
    eventually(
        lambda: set(builds) <= {delivery["build"] for delivery in receiver.deliveries}, 60,
        "every build's notification has arrived")
    for build in builds:
        ids = {d["id"] for d in receiver.deliveries if d["build"] == build}
        assert len(ids) == 1, f"{build} was told of as {ids}"
    assert not receiver.rejected


@pytest.mark.parametrize("victim", ["scheduler", "datastore-gateway", "executor-allocator",
                                    "content-cache", "redis"])
def test_a_killed_service_loses_no_build_and_finishes_none_twice(two_runners, receiver, victim):
    farm = two_runners
    builds = submit_all(farm, receiver)
    eventually(lambda: farm.json("builds", "--active")["builds"], 10, "builds run")
    old = farm.kill(victim)
    farm.wait_restarted(old)
    builds.append(eventually(lambda: resubmit(farm, receiver), 30, "builds are accepted again"))
    check_all(farm, receiver, builds, attempts_allowed=3)


def resubmit(farm, receiver):
    try:
        return submit_all(farm, receiver)[0]
    except AssertionError:
        return None


def test_the_scheduler_is_killed_again_and_again(two_runners, receiver):
    farm = two_runners
    builds = submit_all(farm, receiver)
    for _ in range(4):
        farm.wait_restarted(farm.kill("scheduler"))
    check_all(farm, receiver, builds, attempts_allowed=3)


def test_an_emptied_redis_is_filled_again(two_runners, receiver):
    farm = two_runners
    builds = submit_all(farm, receiver)
    address = farm.process("redis")["address"]
    for _ in range(3):
        command = (["-s", address.removeprefix("unix:")] if address.startswith("unix:")
                   else ["-p", address.rsplit(":", 1)[1]])
        subprocess.run(["redis-cli", *command, "flushall"], check=True, stdout=subprocess.DEVNULL)
    check_all(farm, receiver, builds, attempts_allowed=3)


def test_a_killed_runners_jobs_run_on_the_other(two_runners):
    farm = two_runners
    build = farm.submit("""
jobs:
  one:
    strategy: {matrix: {n: [1, 2, 3, 4]}}
    resources: {cpu: CPU, memory: 64MiB}
    steps:
      - run: sleep 3
""".replace("CPU", farm.cpu_of_a_runner()))
    victim = "runner-1"

    def runs_on_the_victim():
        return [
            job for job in farm.show(build)["jobs"]
            if job["state"] == "running" and job["attempts"][-1]["executor"] == victim]

    eventually(runs_on_the_victim, 30, f"a job runs on {victim}")
    assert farm.kill("plugin-runner")["name"] == "plugin-runner-1"
    ended = farm.wait(build, seconds=120)
    assert ended["outcome"] == "succeeded", ended
    for job in ended["jobs"]:
        assert [a["outcome"] for a in job["attempts"]].count("succeeded") == 1
    lost = [
        (attempt, successor) for job in ended["jobs"]
        for attempt, successor in zip(job["attempts"], job["attempts"][1:])
        if attempt["outcome"] == "executor_lost"]
    assert lost, ended
    for attempt, successor in lost:
        assert attempt["executor"] == victim
        assert successor["executor"] != victim


def test_everything_is_killed_and_everything_goes_on(receiver):
    with Farm(runners=2) as farm:
        builds = submit_all(farm, receiver)
        old = farm.processes()
        for process in old:
            try:
                os.kill(process["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in old:
            farm.wait_restarted(process)
        check_all(farm, receiver, builds, attempts_allowed=4)


def test_up_itself_is_killed_and_started_again(receiver):
    with Farm(runners=2) as farm:
        builds = submit_all(farm, receiver)
        pids = [process["pid"] for process in farm.processes()]
        farm.up.kill()
        farm.up.wait()
        eventually(lambda: not any(map(is_alive, pids)), 30, "the children end with their parent")
        farm.start()
        check_all(farm, receiver, builds, attempts_allowed=4)


def fingerprint(text):
    """The name that a runner's cgroups have: FNV-1a of its data directory."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:x}"


def test_what_two_interrupts_leave_is_cleared_by_the_next_start(stack):
    data = os.path.join(os.path.realpath(stack.data), "plugin-runner-1")

    def left():
        """Workspaces and cgroups of attempts, in no order."""
        groups = glob.glob(f"/sys/fs/cgroup/**/millrace-{fingerprint(data)}/*/", recursive=True)
        return {*groups, *glob.glob(f"{data}/workspaces/*/")}

    build = stack.submit("""
jobs:
  long:
    steps:
      - run: setsid sleep 1000 & echo begun; sleep 1000
""")
    eventually(lambda: "begun" in stack.cli("logs", build).out, 30, "the step runs")
    before = left()
    assert before
    pids = [process["pid"] for process in stack.processes()]
    stack.up.send_signal(signal.SIGINT)
    eventually(lambda: open(stack.up_log.name).read().count("stopping"), 10, "it is stopping")
    stack.up.send_signal(signal.SIGINT)
    stack.up.wait(20)
    eventually(lambda: not any(map(is_alive, pids)), 10, "all services have ended")
    eventually(lambda: not processes_with(data), 10, "the step has ended with its runner")
    assert any(name.startswith(data) for name in left()), "nothing was left: this proves nothing"
    stack.start()
    assert not left() & before
    stack.cli("cancel", build)
    eventually(lambda: not left(), 30, "nothing is left of the build")


def test_a_step_outlives_the_program_that_made_its_sandbox(stack):
    build = stack.submit("""
jobs:
  short:
    steps:
      - run: echo begun; sleep 3; echo ended; exit 7
""")
    eventually(lambda: "begun" in stack.cli("logs", build).out, 30, "the step runs")
    found = [pid for pid in processes_with(os.path.realpath(stack.data) + "/plugin-runner-1")
             if open(f"/proc/{pid}/comm").read().strip() == "bwrap"]
    if not found:
        pytest.skip("steps run without bubblewrap here")
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    ended = stack.wait(build, seconds=20)
    assert ended["jobs"][0]["attempts"][-1]["steps"][0]["exitCode"] == 7, ended
    assert "ended" in stack.cli("logs", build).out
