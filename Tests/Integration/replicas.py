"""Further replicas of a farm's services, each started again when it ends."""

import contextlib
import json
import os
import signal
import subprocess
import threading

from farm import free_port, is_alive, program


class Replica:
    """A process beside those of `millrace up`, in the same network."""

    def __init__(self, farm, service, *arguments):
        self.farm, self.service, self.arguments = farm, service, arguments
        self.name = f"{service}-replica"
        self.address, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        folder = os.path.join(farm.data, "replicas")
        os.makedirs(folder, exist_ok=True)
        # Found by the farm's `logs`.
        self.log = os.path.join(folder, f"{self.name}.log")
        self.data = os.path.join(folder, self.name)
        self.process = None
        self.stopping = threading.Event()
        self.keeper = threading.Thread(target=self.keep)

    def __enter__(self):
        self.start()
        self.keeper.start()
        return self

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.farm.prefix, program(f"millrace-{self.service}"), "--listen", self.address,
                 "--admin-listen", self.admin, "--data", self.data, *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **self.farm.settings})

    def keep(self):
        """As a service manager does, half a second after it has ended."""
        while not self.stopping.wait(0.5):
            if self.process.poll() is not None:
                self.start()

    def described(self):
        """As the farm describes its own."""
        return {"name": self.name, "pid": self.process.pid, "address": self.address}

    def __exit__(self, *_):
        self.stopping.set()
        self.keeper.join()
        if is_alive(self.process.pid):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def replicated(farm, with_gateway):
    """A second scheduler with an allocator of its own, and if the store is shared with a gateway of its own."""
    with open(os.path.join(farm.data, "stack.json")) as file:
        addresses = json.load(file)["addresses"]
    redis = farm.process("redis")["address"]
    with contextlib.ExitStack() as stack:
        allocator = stack.enter_context(Replica(farm, "executor-allocator", "--redis", redis))
        gateway = None
        if with_gateway:
            gateway = stack.enter_context(Replica(farm, "datastore-gateway"))
        scheduler = stack.enter_context(Replica(
            farm, "scheduler", "--allocator", allocator.address,
            "--gateway", gateway.address if gateway else addresses["gateway"]))
        yield [replica for replica in (allocator, gateway, scheduler) if replica]
