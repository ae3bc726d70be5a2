"""Every service ends as it is told to and is started again, one after the other, while builds run:
the old configuration, and a program that might be a new one. No build notices.
"""

import os
import signal
import threading

from farm import Farm, eventually, http

# Longer than the restarts of all services but the runners, which wait for it.
LONG = """
jobs:
  long:
    resources: {cpu: 100m, memory: 16MiB}
    steps:
      - run: for i in $(seq 40); do echo line $i; sleep 0.2; done
"""
# Two legs and a job behind them: demands, leases, records and logs of its own all the time.
SHORT = """
jobs:
  leg:
    strategy: {matrix: {number: [1, 2]}}
    resources: {cpu: 100m, memory: 16MiB}
    steps:
      - run: echo begin; sleep 0.3; echo end
  last:
    needs: leg
    resources: {cpu: 100m, memory: 16MiB}
    steps:
      - run: echo last
"""
FOLLOWERS = 2


class Follower(threading.Thread):
    """Runs one build after the other and follows each to its end, as a developer does."""

    def __init__(self, farm, stopping):
        super().__init__()
        self.farm, self.stopping = farm, stopping
        self.folder = farm.project(SHORT, name="short")
        self.results = []

    def run(self):
        while not self.stopping.is_set():
            self.results.append(self.farm.cli("run", self.folder))


def restart(farm, name):
    old = farm.process(name)
    os.kill(old["pid"], signal.SIGTERM)
    farm.wait_restarted(old)

    def is_ready():
        try:
            return http(old["admin"], "/readyz", timeout=2)[0] == 200
        except OSError:
            return False

    eventually(is_ready, 30, f"{name} is ready again")


def test_a_rolling_restart_is_noticed_by_no_build():
    with Farm(runners=2, arguments=["--drain-grace", "30"]) as farm:
        stopping = threading.Event()
        followers = [Follower(farm, stopping) for _ in range(FOLLOWERS)]
        long = []
        followed = threading.Thread(target=lambda: long.append(farm.run(LONG)))
        threads = [followed, *followers]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: all(f.results for f in followers), 30, "builds run")
            for name in ["datastore-gateway", "content-cache", "executor-allocator", "scheduler",
                         "plugin-runner-1", "plugin-runner-2"]:
                restart(farm, name)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        for result in [*long, *(result for f in followers for result in f.results)]:
            assert result.code == 0, result
        lines = [line for line in long[0].out.splitlines() if "line " in line]
        assert [line.rsplit("line ", 1)[1] for line in lines] == [str(i + 1) for i in range(40)]
        for result in (result for f in followers for result in f.results):
            words = [line.rsplit(" ", 1)[-1] for line in result.out.splitlines()]
            assert [words.count(word) for word in ("begin", "end", "last")] == [2, 2, 1], result
        builds = farm.json("builds", "--limit", "1000")["builds"]
        assert len(builds) == 1 + sum(len(f.results) for f in followers)
        for build in builds:
            for job in build["jobs"]:
                *refused, last = job["attempts"]
                assert last["outcome"] == "succeeded", build
                # Given to a runner just as it began to drain: refused, and never begun.
                assert all(a["outcome"] == "preempted" and not a.get("steps") for a in refused), build
        with open(os.path.join(farm.folder, "up.log")) as file:
            ends = [line for line in file if " ended with " in line]
        # Each did what it was told to.
        assert len(ends) == 6 and all("exit code 0" in line for line in ends), ends
