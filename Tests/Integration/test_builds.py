"""What a user sees of builds."""

import os
import stat
import time

from farm import eventually, processes_with

HELLO = """
name: hello
jobs:
  greet:
    steps:
      - name: Say it
        run: echo "hello from $(cat name.txt)"
"""


def test_a_build_runs_and_its_log_is_seen(farm):
    result = farm.run(
        HELLO.replace("steps:", "steps:\n      - uses: checkout"), files={"name.txt": "the mill\n"},
        code=0)
    assert "hello from the mill" in result.out


def test_steps_share_a_workspace_and_stop_at_the_first_failure(farm):
    build = farm.build("""
jobs:
  one:
    steps:
      - run: echo 1 >made
      - run: cat made
      - run: exit 7
      - name: never
        run: echo never
      - name: always
        if: always()
        run: cat made
""")
    assert build["outcome"] == "failed"
    steps = build["jobs"][0]["attempts"][-1]["steps"]
    assert [step["outcome"] for step in steps] == [
        "succeeded", "succeeded", "failed", "skipped", "succeeded"]
    assert steps[2]["exitCode"] == 7


def test_a_failing_build_shows_its_last_lines_and_exit_codes(farm):
    result = farm.run("""
jobs:
  broken:
    steps:
      - run: |
          seq 1 500
          echo "the reason is here"
          exit 42
""", code=1)
    assert "the reason is here" in result.out
    assert "exit code 42" in result.out
    summary = result.out[result.out.rindex("──"):] if "──" in result.out else result.out
    assert "500" in summary and "the reason is here" in summary


def test_needs_matrix_and_conditions(farm):
    build = farm.build("""
jobs:
  make:
    strategy:
      matrix:
        level: ["1", "2", "3"]
        exclude:
          - level: "2"
    steps:
      - run: test "${{ matrix.level }}" != 2
  check:
    needs: make
    steps:
      - run: "true"
  repair:
    needs: check
    if: failure()
    steps:
      - run: "true"
""")
    assert build["outcome"] == "succeeded"
    outcomes = sorted((job["id"].split("(")[0].strip(), job["outcome"]) for job in build["jobs"])
    assert [outcome for name, outcome in outcomes if name.startswith("repair")] == ["skipped"]
    assert len([name for name, _ in outcomes if name.startswith("make")]) == 2
    by_name = {job["id"]: job for job in build["jobs"]}
    begin = by_name["check"]["attempts"][0]["startedAt"]
    for name, job in by_name.items():
        if name.startswith("make"):
            assert job["attempts"][0]["finishedAt"] <= begin


def test_a_step_that_takes_too_long_is_timed_out(farm):
    build = farm.build("""
jobs:
  slow:
    steps:
      - run: sleep 1000
        timeout-minutes: 0.02
""")
    assert build["outcome"] == "timed-out" or build["outcome"] == "timed_out", build["outcome"]


def test_the_same_key_is_the_same_build(farm):
    folder = farm.project(HELLO, {"name.txt": "x"})
    first = farm.json("submit", folder, "--idempotency-key", "once")
    second = farm.json("submit", folder, "--idempotency-key", "once")
    assert first["id"] == second["id"]
    assert (first["existed"], second["existed"]) == (False, True)
    farm.wait(first["id"])


def test_an_artifact_is_downloaded_and_runs(farm, tmp_path):
    build = farm.build("""
jobs:
  tool:
    steps:
      - run: |
          printf '#!/bin/sh\\necho made by millrace\\n' >tool
          chmod +x tool
          mkdir -p deep/er
          head -c 3000000 /dev/urandom >deep/er/noise
          sha256sum <deep/er/noise
      - uses: artifacts
        with:
          name: tools
          path: |
            tool
            deep/**
""")
    assert build["outcome"] == "succeeded", build
    farm.cli("artifacts", "get", build["id"], "--directory", str(tmp_path), code=0)
    found = {
        os.path.relpath(os.path.join(folder, name), tmp_path)
        for folder, _, names in os.walk(tmp_path) for name in names}
    tool = next(path for path in found if os.path.basename(path) == "tool")
    assert os.stat(tmp_path / tool).st_mode & stat.S_IXUSR
    assert os.popen(str(tmp_path / tool)).read() == "made by millrace\n"
    noise = next(path for path in found if os.path.basename(path) == "noise")
    digest = os.popen(f"sha256sum <'{tmp_path / noise}'").read().split()[0]
    assert digest in farm.cli("logs", build["id"], code=0).out


def test_retry_runs_what_did_not_succeed_again(farm):
    build = farm.build("""
jobs:
  good:
    steps:
      - run: "true"
  bad:
    steps:
      - run: "false"
""")
    assert build["outcome"] == "failed"
    farm.cli("retry", build["id"], code=0)
    again = farm.wait(build["id"])
    attempts = {job["id"]: len(job["attempts"]) for job in again["jobs"]}
    assert attempts == {"good": 1, "bad": 2}
    assert again["outcome"] == "failed"


def test_a_cancelled_build_leaves_no_process(farm):
    build = farm.submit("""
jobs:
  long:
    steps:
      - run: |
          sleep 1000 & sleep 1000 &
          setsid sleep 1000 &
          echo started
          wait
""")
    mark = f"MILLRACE_BUILD={build}"
    eventually(lambda: len(processes_with(mark)) >= 4, 30, "its processes run")
    farm.cli("cancel", build, code=0)
    assert farm.wait(build)["outcome"] == "cancelled"
    eventually(lambda: not processes_with(mark), 10, "no process of the build is left")


def test_a_step_that_forks_and_ignores_sigterm_is_killed_all_the_same(farm):
    build = farm.submit("""
jobs:
  stubborn:
    steps:
      - run: |
          trap '' TERM INT HUP
          for i in 1 2 3; do
            (trap '' TERM INT HUP; while :; do sleep 0.2; done) &
          done
          setsid sh -c "trap '' TERM INT HUP; (while :; do sleep 0.2; done) & wait" &
          nohup setsid sleep 1000 >/dev/null 2>&1 &
          wait
""")
    mark = f"MILLRACE_BUILD={build}"
    eventually(lambda: len(processes_with(mark)) >= 6, 30, "its processes run")
    begin = time.monotonic()
    farm.cli("cancel", build, code=0)
    assert farm.wait(build)["outcome"] == "cancelled"
    eventually(lambda: not processes_with(mark), 20, "no process of the build is left")
    assert time.monotonic() - begin < 30


def test_a_step_that_leaves_processes_behind_is_cleaned_up_after(farm):
    build = farm.build("""
jobs:
  messy:
    steps:
      - run: |
          setsid nohup sleep 1000 >/dev/null 2>&1 &
          sleep 1000 &
          exit 0
""")
    assert build["outcome"] == "succeeded"
    mark = f"MILLRACE_BUILD={build['id']}"
    eventually(lambda: not processes_with(mark), 10, "no process of the build is left")


def test_two_runners_share_a_matrix(farm):
    build = farm.build("""
jobs:
  part:
    resources: {cpu: CPU}
    strategy:
      matrix:
        number: [1, 2, 3, 4]
    steps:
      - run: sleep 1
""".replace("CPU", farm.cpu_of_a_runner()))
    assert build["outcome"] == "succeeded"
    executors = {job["attempts"][-1]["executor"] for job in build["jobs"]}
    assert len(executors) == 2, executors
    assert all(len(job["attempts"]) == 1 for job in build["jobs"])


def test_builds_lists_the_newest_first(farm):
    first = farm.build(HELLO, files={"name.txt": "x"})["id"]
    second = farm.build(HELLO, files={"name.txt": "x"})["id"]
    listed = [build["id"] for build in farm.json("builds", "--limit", "5")["builds"]]
    assert listed.index(second) < listed.index(first)


def test_state_is_kept_between_runs(stack):
    build = stack.build(HELLO.replace("steps:", "steps:\n      - uses: checkout"),
                        files={"name.txt": "the past"})
    assert stack.stop() == 0
    stack.start()
    assert build["id"] in [b["id"] for b in stack.json("builds")["builds"]]
    assert "hello from the past" in stack.cli("logs", build["id"], code=0).out


def test_sigterm_waits_for_nothing_that_is_idle(stack):
    begin = time.monotonic()
    assert stack.stop() == 0
    assert time.monotonic() - begin < 5
