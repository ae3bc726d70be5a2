"""A disk that is full: whoever filled it fails, with the reason, and the farm goes on."""

import os
import subprocess
import time

import pytest
from farm import Farm, eventually, http

# Fills the disk, then says more than fits into what is kept in memory of a log.
GREEDY = """
jobs:
  greedy:
    steps:
      - run: cat /dev/zero > big || true; head -c 9000000 /dev/urandom | base64
      - run: echo never
        if: always()
"""


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 40 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], stderr=subprocess.PIPE)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield str(folder)
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.fixture
def stack(small_disk):
    """A farm that keeps all it has on such a disk."""
    farm = Farm(runners=1)
    farm.data = os.path.join(small_disk, "farm")
    with farm:
        yield farm


def test_a_step_that_fills_the_farms_disk_fails_and_the_farm_goes_on(stack):
    begin = time.monotonic()
    build = stack.build(GREEDY, timeout=60)
    assert time.monotonic() - begin < 30
    assert build["outcome"] == "failed", build
    message = build["jobs"][0]["attempts"][-1]["message"]
    assert "could not be saved: no space left on the device of" in message, build
    assert "never" not in stack.cli("logs", build["id"]).out
    eventually(lambda: http(stack.process("content-cache")["admin"], "/readyz")[0] == 200, 10,
               "there is room again")
    stack.run("jobs: {next: {steps: [{run: echo room}]}}", code=0)


def test_a_step_that_sleeps_on_a_full_disk_is_ended_to_make_room(stack):
    build = stack.submit("""
jobs:
  modest:
    resources: {cpu: 0.1, memory: 64MiB}
    steps:
      - run: sleep 25
  greedy:
    resources: {cpu: 0.1, memory: 64MiB}
    steps:
      - run: sleep 2; cat /dev/zero > big 2> /dev/null || true; sleep 1000
""")
    ended = stack.wait(build, seconds=60)
    jobs = {job["id"]: job for job in ended["jobs"]}
    assert jobs["greedy"]["outcome"] == "failed", ended
    assert "this one held most of it" in jobs["greedy"]["attempts"][-1]["message"], ended
    assert jobs["modest"]["outcome"] == "succeeded", ended


def test_a_full_disk_is_told_and_jobs_wait_for_room(stack):
    room = os.statvfs(stack.data)
    ballast = os.path.join(stack.data, "ballast")
    with open(ballast, "wb") as file:
        file.write(bytes(room.f_bavail * room.f_frsize - (3 << 20)))

    def admins_say(status, text):
        answers = [http(stack.process(name)["admin"], "/readyz")
                   for name in ("content-cache", "plugin-runner")]
        return all(code == status and text in body for code, body in answers)

    eventually(lambda: admins_say(503, "is full: "), 10, "the services say that the disk is full")
    build = stack.submit("jobs: {next: {steps: [{run: echo room}]}}")
    eventually(lambda: stack.executors()[0]["state"] == "draining", 10, "no jobs are taken")
    assert stack.show(build)["state"] != "finished"
    os.unlink(ballast)
    assert stack.wait(build, seconds=60)["outcome"] == "succeeded"
    eventually(lambda: admins_say(200, ""), 10, "the services are ready again")
