"""A farm of real processes, and what tests ask of it."""

import glob
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Not a minute, as farms have it whose machines take their time to come back.
os.environ.setdefault("MILLRACE_UNSATISFIABLE_AFTER", "3s")

BIN = os.environ.get("MILLRACE_BIN") or os.path.join(ROOT, ".build", "debug")

SERVICES = {
    "scheduler": 7101,
    "executor-allocator": 7102,
    "plugin-runner": 7103,
    "datastore-gateway": 7104,
    "content-cache": 7105,
}


def program(name):
    return os.path.join(BIN, name)


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_base_port():
    """The first of a block of ports that nobody uses; below those that the system hands out."""
    for _ in range(100):
        base = random.randrange(15000, 30000, 250)
        if all(is_free(base + offset) for offset in [*range(0, 20), *range(100, 120)]):
            return base
    raise RuntimeError("no block of free ports was found")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition, seconds, what):
    """Waits until `condition` gives something, and gives it."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def processes_with(text):
    """The processes whose environment or arguments contain a text."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                content = file.read()
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                content += file.read()
        except OSError:
            continue
        if text.encode() in content and is_alive(int(entry)):
            found.append(int(entry))
    return found


def resident_bytes(pid):
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def http(address, path, timeout=10):
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Result:
    """A command that has ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit code {self.code}\n--- out:\n{self.out[-4000:]}\n--- err:\n{self.err[-4000:]}"


class Farm:
    """`millrace up` on free ports, with a folder of its own."""

    START_SECONDS = 60
    STOP_SECONDS = 40

    def __init__(self, runners=1, base_port=None, folder=None, arguments=(), settings=None):
        self.runners = runners
        self.base_port = base_port or free_base_port()
        self.own_folder = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="millrace-test-")
        self.data = os.path.join(self.folder, "farm")
        self.arguments = list(arguments)
        # Environment variables for the services.
        self.settings = dict(settings or {})
        self.up = None
        self.projects = 0
        # Words before each command of the farm.
        self.prefix = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            if self.own_folder:
                shutil.rmtree(self.folder, ignore_errors=True)

    # Processes

    def start(self):
        self.up_log = open(os.path.join(self.folder, "up.log"), "ab")
        self.up = subprocess.Popen(
            [*self.prefix, program("millrace"), "up", "--data", self.data, "--base-port", str(self.base_port),
             "--runners", str(self.runners), *self.arguments],
            stdin=subprocess.DEVNULL, stdout=self.up_log, stderr=subprocess.STDOUT,
            env={**os.environ, **self.settings},
        )
        eventually(self.is_up, self.START_SECONDS, "the farm is up")

    def is_up(self):
        if self.up.poll() is not None:
            with open(os.path.join(self.folder, "up.log")) as file:
                raise AssertionError(f"millrace up ended: {file.read()[-3000:]}")
        try:
            return len(self.executors()) == self.runners
        except (AssertionError, ValueError, KeyError):
            return False

    def stop(self, seconds=STOP_SECONDS):
        """Ends the farm as Ctrl-C does; nothing of it may be left."""
        if self.up is None:
            return None
        pids = [process["pid"] for process in self.processes()] if self.up.poll() is None else []
        self.up.send_signal(signal.SIGINT)
        try:
            code = self.up.wait(seconds)
        except subprocess.TimeoutExpired:
            self.up.kill()
            self.up.wait()
            code = None
        self.up = None
        self.up_log.close()
        left = [pid for pid in pids if is_alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert code is not None, f"millrace up did not end within {seconds} s"
        assert not left, f"processes {left} outlived millrace up"
        return code

    def processes(self):
        with open(os.path.join(self.data, "stack.json")) as file:
            return json.load(file)["processes"]

    def process(self, name):
        """The first process whose name begins so."""
        for process in self.processes():
            if process["name"].startswith(name):
                return process
        raise AssertionError(f"there is no {name} in {self.processes()}")

    def kill(self, name, number=signal.SIGKILL):
        """Kills a process and waits until the farm has another."""
        old = self.process(name)
        os.kill(old["pid"], number)
        eventually(lambda: not is_alive(old["pid"]), 10, f"{name} is dead")
        return old

    def wait_restarted(self, old, seconds=30):
        def is_back():
            try:
                new = [p for p in self.processes() if p["name"] == old["name"]]
                return bool(new) and new[0]["pid"] != old["pid"] and is_alive(new[0]["pid"])
            except (OSError, ValueError):
                return False

        eventually(is_back, seconds, f"{old['name']} is running again")

    def logs(self):
        return sorted(
            {os.path.join(self.folder, "up.log")}
            | set(glob.glob(os.path.join(self.data, "**", "*.log"), recursive=True))
        )

    # The command line

    def environment(self):
        return {**os.environ, "MILLRACE_HOME": self.data, "NO_COLOR": "1"}

    def cli(self, *arguments, timeout=120, code=None):
        """Runs `millrace`; `code`, if given, must be its exit code."""
        done = subprocess.run(
            [*self.prefix, program("millrace"), *arguments], env=self.environment(), timeout=timeout,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        result = Result(
            done.returncode, done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"))
        if code is not None:
            assert result.code == code, f"millrace {' '.join(arguments)}: {result}"
        return result

    def json(self, *arguments, timeout=120, code=0):
        result = self.cli(*arguments, "--output", "json", timeout=timeout, code=code)
        return json.loads(result.out)

    def executors(self):
        return self.json("executors")["executors"]

    def cpu_of_a_runner(self):
        """All CPUs of one runner, as a pipeline asks for them: its jobs run one at a time."""
        return str(min(e["capacity"]["cpuMillis"] for e in self.executors()) / 1000)

    def project(self, pipeline, files=None, name=None):
        """Makes a directory with a millrace.yaml and further files."""
        self.projects += 1
        folder = os.path.join(self.folder, "projects", str(self.projects), name or "project")
        os.makedirs(folder)
        for path, text in {"millrace.yaml": pipeline, **(files or {})}.items():
            path = os.path.join(folder, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        return folder

    def run(self, pipeline, *arguments, files=None, code=None, timeout=120):
        """`millrace run` of a pipeline, followed to its end."""
        folder = self.project(pipeline, files)
        return self.cli("run", folder, *arguments, timeout=timeout, code=code)

    def build(self, pipeline, *arguments, files=None, timeout=120):
        """Runs a pipeline and gives the finished build."""
        folder = self.project(pipeline, files)
        result = self.cli("run", folder, "--output", "json", *arguments, timeout=timeout)
        try:
            return json.loads(result.out)
        except ValueError:
            raise AssertionError(f"no build: {result}") from None

    def submit(self, pipeline, *arguments, files=None, code=0):
        """Submits a pipeline and gives the build's id."""
        folder = self.project(pipeline, files)
        return self.cli("submit", folder, *arguments, code=code).out.strip()

    def show(self, build):
        """The build as it is now."""
        for candidate in self.json("builds", "--limit", "1000")["builds"]:
            if candidate["id"] == build:
                return candidate
        raise AssertionError(f"there is no build {build}")

    def wait(self, build, seconds=60):
        """The build once it is finished."""
        end = time.monotonic() + seconds
        while True:
            result = self.cli(
                "watch", build, "--no-logs", "--output", "json",
                timeout=max(end - time.monotonic(), 1))
            lines = [line for line in result.out.splitlines() if line.strip()]
            # A watch does not begin while the scheduler is started again.
            if lines or result.code != 4 or time.monotonic() > end:
                break
            time.sleep(0.1)
        assert lines, f"watch {build}: {result}"
        last = json.loads(lines[-1])
        assert last["state"] == "finished", f"watch {build} ended early: {result}"
        return last

    def metrics(self, name):
        """The metrics of a process, by name with labels."""
        _, text = http(self.process(name)["admin"], "/metrics")
        return {
            line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
            for line in text.splitlines() if not line.startswith("#")
        }


class FurtherRunner:
    """A plugin-runner that joins a farm, and that nobody starts again when it ends."""

    def __init__(self, farm, name, *arguments):
        self.farm, self.name, self.arguments = farm, name, arguments
        self.address, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.log = os.path.join(farm.folder, f"further-{name}.log")
        self.process = None

    def __enter__(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [program("millrace-plugin-runner"), "--executor-id", self.name, "--data",
                 os.path.join(self.farm.folder, f"further-{free_port()}"), "--listen", self.address,
                 "--admin-listen", self.admin, "--allocator",
                 self.farm.process("executor-allocator")["address"],
                 "--cache", self.farm.process("content-cache")["address"], *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
