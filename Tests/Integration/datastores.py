"""Servers of Google's Datastore API for the tests: our gateway, and Google's two emulators."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from farm import eventually, free_port, program

# A server that is already there, as host:port, instead of a gateway of the tests' own: so the same
# tests can be run against Google's.
GIVEN_SERVER = os.environ.get("MILLRACE_TEST_DATASTORE")

START_SECONDS = 120
STOP_SECONDS = 15


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A process that serves the API on a port of its own, with a folder of its own."""

    def __init__(self, name):
        self.name = name
        self.folder = tempfile.mkdtemp(prefix="millrace-datastore-")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = None

    def command(self):
        raise NotImplementedError

    @property
    def log(self):
        return os.path.join(self.folder, "log")

    def __enter__(self):
        self.start()
        return self

    def start(self):
        with open(self.log, "ab") as log:
            # A session of its own: an emulator's children end with it.
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )
        try:
            eventually(self.is_up, START_SECONDS, f"{self.name} is up")
        except BaseException:
            self.__exit__()
            raise

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def is_up(self):
        if self.process.poll() is not None:
            with open(self.log) as file:
                raise AssertionError(f"{self.name} ended: {file.read()[-3000:]}")
        return accepts(self.port)

    def __exit__(self, *_):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Gateway(Server):
    """millrace-datastore-gateway."""

    def __init__(self, store="sqlite", data=None, flags=()):
        super().__init__("the gateway")
        self.store = store
        self.flags = flags
        self.data = str(data or os.path.join(self.folder, "data"))

    def command(self):
        return [
            program("millrace-datastore-gateway"), "--listen", self.address,
            "--admin-listen", f"127.0.0.1:{free_port()}",
            "--data", self.data, "--store", self.store, *self.flags,
        ]


class DatastoreEmulator(Server):
    """Google's Datastore emulator."""

    package = "google-cloud-cli-datastore-emulator"

    def __init__(self):
        super().__init__("Google's Datastore emulator")

    def command(self):
        return [
            "java", "-Xmx512m", "-cp", jar(self.package, "CloudDatastore.jar"),
            "com.google.cloud.datastore.emulator.CloudDatastore", "start", "--testing", "--consistency=1.0",
            "--host=127.0.0.1", f"--port={self.port}", os.path.join(self.folder, "data"),
        ]


class FirestoreEmulator(Server):
    """Google's Firestore emulator in datastore mode."""

    package = "google-cloud-cli-firestore-emulator"

    def __init__(self):
        super().__init__("Google's Firestore emulator")

    def command(self):
        return [
            "java", "-Xmx512m", "-cp", jar(self.package, "cloud-firestore-emulator.jar"),
            "com.google.cloud.datastore.emulator.firestore.CloudFirestore", "start",
            "--host=127.0.0.1", f"--port={self.port}", "--database-mode=datastore-mode",
        ]


def jar(package, name):
    """Where a Debian package has put a file; nothing if it is not on this machine."""
    if not shutil.which("dpkg"):
        return None
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True)
    paths = [path for path in listed.stdout.split("\n") if os.path.basename(path) == name]
    return paths[0] if paths and os.path.exists(paths[0]) else None


def why_not(emulator):
    """What an emulator lacks to run on this machine; nothing if it can."""
    if not shutil.which("java"):
        return "there is no java"
    name = {DatastoreEmulator: "CloudDatastore.jar", FirestoreEmulator: "cloud-firestore-emulator.jar"}
    return None if jar(emulator.package, name[emulator]) else f"there is no {emulator.package}"
