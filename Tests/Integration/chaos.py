"""Breaks a farm of real processes while builds arrive, and accounts for everything at the end.

A farm in a network namespace of its own, so that its parts can be cut off from each other and
nothing else on the machine notices.
"""

import collections
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import threading
import time

from farm import SERVICES, Farm, eventually, is_alive
from replicas import replicated

# Two legs and a job behind them. Each step tells the sink what it does, as what: so its effects are
# known from outside, whatever the farm's records say.
PIPELINE = """
jobs:
  leg:
    strategy: {matrix: {number: [1, 2]}}
    resources: {cpu: 0.5, memory: 64MiB}
    steps:
      - run: |
          TELL began
          sleep 0.4
          TELL ended
  last:
    needs: leg
    resources: {cpu: 0.5, memory: 64MiB}
    steps:
      - run: |
          TELL began
          TELL ended
"""
TELL = "bash -c 'echo \"$0 $MILLRACE_ATTEMPT\" > /dev/udp/127.0.0.1/PORT'"
SINK = """
import socket, sys
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("127.0.0.1", 0))
sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
print(sink.getsockname()[1], flush=True)
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        file.write(sink.recv(4096))
"""
# Attempts that a runner may have at a time, and lose together, with room to spare.
SLOTS = 16
# How long what is left may take to end once nothing breaks any more.
CALM_SECONDS = 180
# What a scheduler logs of each finding of its audit.
AUDIT = "what was at hand did not agree with what is recorded"
# Attempts whose executors were lost, after which a job is given up: the scheduler's policy.
LOST_LIMIT = 4
# How jobs end whose build has failed before they began, or while they ran.
UNBEGUN = ("skipped", "cancelled")


def why_no_cuts():
    """What this machine lacks to cut processes off; nothing if it can."""
    if os.geteuid() != 0:
        return "only root may make a network namespace"
    for name in ("ip", "iptables", "nsenter"):
        if not shutil.which(name):
            return f"there is no {name}"
    done = subprocess.run(["unshare", "--net", "iptables", "-w", "-S"], capture_output=True)
    return None if done.returncode == 0 else f"iptables: {done.stderr.decode().strip()}"


class Namespace:
    """A network namespace with a loopback device, held by a process."""

    def __enter__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.prefix = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        host = os.readlink("/proc/self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != host, 10,
                   "there is a network namespace")
        subprocess.run([*self.prefix, "ip", "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.wait()

    @contextlib.contextmanager
    def cut(self, port):
        """Nothing comes to this port or from it: packets vanish."""
        rules = [["INPUT", "-p", "tcp", way, str(port), "-j", "DROP"]
                 for way in ("--dport", "--sport")]
        for rule in rules:
            subprocess.run([*self.prefix, "iptables", "-w", "-A", *rule], check=True)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run([*self.prefix, "iptables", "-w", "-D", *rule], check=True)


class ChaosFarm(Farm):
    """A farm inside a namespace, or where there can be none beside everything else."""

    def __init__(self, namespace, **arguments):
        super().__init__(**arguments)
        self.namespace = namespace
        self.prefix = namespace.prefix if namespace else []

    def open_sink(self):
        """Starts what takes the steps' words; gives its process and the file."""
        path = os.path.join(self.folder, "effects")
        process = subprocess.Popen([*self.prefix, "python3", "-c", SINK, path],
                                   stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline().strip(), path


class Chaos:
    """A second's breakage after the other, from a seed."""

    def __init__(self, farm, seed, databases=()):
        self.farm = farm
        self.random = random.Random(seed)
        # Servers that the farm does not start again by itself.
        self.databases = list(databases)
        # Beside the farm's own processes.
        self.replicas = []
        self.counts = collections.Counter()
        self.hurt = []
        self.stopping = threading.Event()

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopping.wait(1):
            action = self.random.choices(
                [self.kill, self.pause, self.cut, self.flush], [5, 4, 3, 1])[0]
            action()
        for thread in self.hurt:
            thread.join()

    def victims(self):
        try:
            own = self.farm.processes()
            processes = own + [replica.described() for replica in self.replicas]
            return [p for p in processes if is_alive(p["pid"])]
        except (OSError, ValueError):
            return []

    def later(self, what, *arguments):
        thread = threading.Thread(target=what, args=arguments)
        thread.start()
        self.hurt = [t for t in self.hurt if t.is_alive()] + [thread]

    def kill(self):
        choices = self.victims() + self.databases
        if not choices:
            return
        victim = self.random.choice(choices)
        if isinstance(victim, dict):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim["pid"], signal.SIGKILL)
            self.counts[f"killed {victim['name']}"] += 1
        else:
            victim.kill()
            victim.start()
            self.counts["killed the database"] += 1

    def pause(self):
        victims = self.victims()
        if not victims:
            return
        victim, seconds = self.random.choice(victims), self.random.uniform(0.2, 8)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim["pid"], signal.SIGSTOP)
        self.counts[f"paused {victim['name']}"] += 1
        self.later(self.resume, victim["pid"], seconds)

    def resume(self, pid, seconds):
        self.stopping.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def cut(self):
        if self.farm.namespace is None:
            return
        victims = [p for p in self.victims() if p["name"].startswith(tuple(SERVICES))]
        if not victims:
            return
        victim = self.random.choice(victims)
        self.counts[f"cut off {victim['name']}"] += 1
        self.later(self.cut_for, victim["address"].rsplit(":", 1)[1],
                   self.random.uniform(0.5, 8))

    def cut_for(self, port, seconds):
        with self.farm.namespace.cut(port):
            self.stopping.wait(seconds)

    def flush(self):
        try:
            address = self.farm.process("redis")["address"]
        except (AssertionError, OSError, ValueError):
            return
        subprocess.run(["redis-cli", "-s", address.removeprefix("unix:"), "flushall"],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
        self.counts["emptied redis"] += 1


class Submitter(threading.Thread):
    """Submits a build at each tick; what is not answered is asked again with the same key."""

    def __init__(self, farm, pipeline, interval):
        super().__init__()
        self.farm, self.interval = farm, interval
        self.folder = farm.project(pipeline, name="chaos")
        self.stopping = threading.Event()
        # Asked in turns, for any of them answers.
        self.schedulers = itertools.cycle([farm.process("scheduler")["address"]])
        # What was answered, by its key.
        self.builds = {}
        self.unanswered = 0
        self.wrong = []

    def run(self):
        number = 0
        while not self.stopping.wait(self.interval):
            number += 1
            self.submit(f"chaos-{number}")

    def submit(self, key):
        while True:
            try:
                result = self.farm.cli("submit", self.folder, "--idempotency-key", key,
                                       "--scheduler", next(self.schedulers), timeout=20)
            except subprocess.TimeoutExpired:
                result = None
            if result and result.code == 0:
                break
            self.unanswered += 1
            if self.stopping.wait(0.5):
                return
        self.builds[key] = result.out.strip()


def ask(farm, *arguments, seconds=60):
    """A farm that was just broken answers some calls at the second try."""
    def answer():
        try:
            return farm.json(*arguments, timeout=20)
        except (AssertionError, subprocess.TimeoutExpired, ValueError):
            return None

    return eventually(answer, seconds, f"millrace {' '.join(arguments)} answers")


def of(told, build):
    """What steps of a build have told."""
    return [line for line in told if line[1].startswith(build)]


def account(farm, submitter, effects):
    """Everything that was answered has one end, and everything that steps did has an attempt.

    Gives the attempts there were, and the builds whose executors were lost too often.
    """
    builds = {key: farm.wait(build, seconds=CALM_SECONDS)
              for key, build in submitter.builds.items()}
    told = collections.Counter()
    with open(effects) as file:
        for line in file:
            what, attempt = line.strip().split(" ", 1)
            told[what, attempt] += 1
    attempts, given_up = 0, 0
    for key, ended in builds.items():
        build = ended["id"]
        again = farm.cli("submit", submitter.folder, "--idempotency-key", key, code=0).out.strip()
        assert again == build == submitter.builds[key], f"{key} was {build}, and is {again}"
        given_up += ended["outcome"] != "succeeded"
        is_lost = any(
            [a["outcome"] for a in job["attempts"]].count("executor_lost") == LOST_LIMIT
            for job in ended["jobs"])
        for job in ended["jobs"]:
            outcomes = [attempt["outcome"] for attempt in job["attempts"]]
            if ended["outcome"] == "succeeded":
                assert outcomes.count("succeeded") == 1, (build, job)
            elif job["outcome"] != "succeeded":
                # Nothing here fails by itself, and nothing is refused: there is room for each.
                assert is_lost and (
                    outcomes.count("executor_lost") == LOST_LIMIT or job["outcome"] in UNBEGUN
                ), (build, job)
            for attempt in job["attempts"]:
                attempts += 1
                name = f"{build}/{job['id']}/{attempt['number']}"
                began, finished = told.pop(("began", name), 0), told.pop(("ended", name), 0)
                # A step runs once in its attempt, or not at all where that was lost.
                assert finished <= began <= 1, (name, began, finished)
                if attempt["outcome"] == "succeeded":
                    assert finished == 1, (name, began, finished, of(told, build), job)
    known = set(submitter.builds.values())
    strange = [line for build in known for line in of(told, build)]
    assert not strange, f"steps of no attempt that is recorded: {strange}"
    return attempts, given_up


def nothing_is_left(farm):
    """No lease is held, and no build is under way."""
    def is_free():
        executors = ask(farm, "executors")["executors"]
        return (len(executors) == farm.runners
                and all(executor["leases"] == 0 for executor in executors))

    eventually(is_free, 60, "no lease is left")
    assert ask(farm, "builds", "--active")["builds"] == []


def nothing_was_put_right(farm):
    """No scheduler found that what it had at hand was not what is recorded."""
    found = []
    for path in farm.logs():
        with contextlib.suppress(OSError), open(path, errors="replace") as file:
            found += [line.strip() for line in file if AUDIT in line]
    assert not found, f"the audit found: {found}"


def run(seconds, seed, runners=2, interval=0.7, settings=None, databases=(), replicas=False,
        report=print):
    """Breaks a farm for so long; raises what does not hold.

    With replicas there are two schedulers, two allocators, and two gateways over one database.
    """
    reason = why_no_cuts()
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(Namespace()) if reason is None else None
        if reason:
            report(f"chaos: nothing is cut off: {reason}")
        farm = stack.enter_context(ChaosFarm(namespace, runners=runners, settings=settings))
        sink, port, effects = farm.open_sink()
        stack.callback(sink.wait)
        stack.callback(sink.kill)
        submitter = Submitter(
            farm, PIPELINE.replace("TELL", TELL.replace("PORT", port)), interval)
        chaos = Chaos(farm, seed, databases)
        if replicas:
            chaos.replicas = stack.enter_context(replicated(farm, with_gateway=bool(databases)))
            submitter.schedulers = itertools.cycle(
                [farm.process("scheduler")["address"], chaos.replicas[-1].address])
        submitter.start()
        try:
            chaos.run(seconds)
        finally:
            chaos.stopping.set()
            submitter.stopping.set()
            submitter.join()
        began = time.monotonic()
        attempts, given_up = account(farm, submitter, effects)
        hurt = sum(count for what, count in chaos.counts.items() if "plugin-runner" in what)
        assert given_up * LOST_LIMIT <= hurt * SLOTS, f"{given_up} builds of {hurt} hurt runners"
        nothing_is_left(farm)
        nothing_was_put_right(farm)
        report(f"chaos: seed {seed}, {seconds} s: {len(submitter.builds)} builds answered, "
               f"{submitter.unanswered} submits asked again, {attempts} attempts, "
               f"{given_up} builds given up after lost executors; all has ended "
               f"{time.monotonic() - began:.0f} s after the last of: "
               + ", ".join(f"{what} {count}" for what, count in sorted(chaos.counts.items())))
