#!/usr/bin/env python3
"""Jobs through RabbitMQ: a durable queue, persistent messages, publisher confirms, and two consumers
that acknowledge each job. Prints one line of JSON.

  jobs.py [--count N] [--window N]

The server is a private one on free ports, with its data in a temporary folder below $TMPDIR. Where
rabbitmq-server or pika is not installed it says so and ends with 3.
"""

import argparse
import collections
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# Debian's own wrapper in PATH insists on the user rabbitmq.
PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
QUEUE = "jobs"
CONSUMERS = 2
# Jobs that a consumer has and has not acknowledged.
PREFETCH = 32
START_SECONDS = 60


def skip(reason):
    print(f"skipped RabbitMQ: {reason}", file=sys.stderr)
    sys.exit(3)


try:
    import pika
    import pika.exceptions
except ImportError:
    skip("there is no pika; scripts/setup installs it in .venv")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A private server, until the end of the `with`."""

    def __enter__(self):
        if not os.path.exists(PROGRAM):
            skip("there is no rabbitmq-server; `scripts/setup rabbitmq-server` installs it")
        self.folder = tempfile.mkdtemp(prefix="millrace-rabbitmq-")
        plugins = f"{self.folder}/plugins"
        with open(plugins, "w") as file:
            file.write("[].\n")
        port = free_port()
        self.parameters = pika.ConnectionParameters("127.0.0.1", port)
        self.environment = {
            **os.environ, "HOME": self.folder, "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",
            "RABBITMQ_NODENAME": f"millrace-{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()), "RABBITMQ_MNESIA_BASE": f"{self.folder}/data",
            "RABBITMQ_LOG_BASE": f"{self.folder}/log", "RABBITMQ_ENABLED_PLUGINS_FILE": plugins}
        self.log = open(f"{self.folder}/output", "w")
        self.process = subprocess.Popen(
            [PROGRAM], env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, start_new_session=True)
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait(self):
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                pika.BlockingConnection(self.parameters).close()
                return
            except pika.exceptions.AMQPError as error:
                if self.process.poll() is None and time.monotonic() < end:
                    time.sleep(0.2)
                    continue
                with open(self.log.name) as said:
                    raise SystemExit(
                        f"jobs.py: rabbitmq-server does not start: {error!r}\n{said.read()[-2000:]}"
                    ) from None

    def __exit__(self, *_):
        # Nobody wants its data any more.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        # Its port mapper is a process of its own.
        subprocess.run(["epmd", "-kill"], env=self.environment, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)


class Publisher:
    """Publishes jobs, with a window of unconfirmed ones."""

    def __init__(self, parameters, count, window):
        self.count, self.window = count, window
        self.sent = 0
        # Without a confirm yet, in their order.
        self.open = collections.deque()
        self.properties = pika.BasicProperties(delivery_mode=2)
        self.connection = pika.SelectConnection(
            parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_close_callback=lambda connection, _: connection.ioloop.stop())

    def opened(self, channel):
        self.channel = channel
        channel.confirm_delivery(self.confirm)
        self.fill()

    def confirm(self, frame):
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise SystemExit("jobs.py: the server refused a job")
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            while self.open and self.open[0] <= tag:
                self.open.popleft()
        else:
            self.open.remove(tag)
        if self.sent == self.count and not self.open:
            self.connection.close()
        else:
            self.fill()

    def fill(self):
        while self.sent < self.count and len(self.open) < self.window:
            self.sent += 1
            self.open.append(self.sent)
            self.channel.basic_publish("", QUEUE, b"job %d" % self.sent, self.properties)

    def run(self):
        self.connection.ioloop.start()


def consume(parameters, done):
    channel = pika.BlockingConnection(parameters).channel()
    channel.basic_qos(prefetch_count=PREFETCH)

    def receive(channel, method, _properties, _body):
        channel.basic_ack(method.delivery_tag)
        with done.get_lock():
            done.value += 1

    channel.basic_consume(QUEUE, receive)
    channel.start_consuming()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--window", type=int, default=64, help="jobs without a confirm at a time")
    arguments = parser.parse_args()
    # So that the server ends with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with Server() as server:
        connection = pika.BlockingConnection(server.parameters)
        connection.channel().queue_declare(QUEUE, durable=True)
        connection.close()
        done = multiprocessing.Value("q", 0)
        consumers = [
            multiprocessing.Process(target=consume, args=(server.parameters, done), daemon=True)
            for _ in range(CONSUMERS)]
        for consumer in consumers:
            consumer.start()
        began = time.monotonic()
        Publisher(server.parameters, arguments.count, arguments.window).run()
        confirmed = time.monotonic() - began
        while done.value < arguments.count:
            time.sleep(0.002)
        finished = time.monotonic() - began
        for consumer in consumers:
            consumer.kill()
            consumer.join()
    print(json.dumps({
        "jobs": arguments.count, "confirmed_seconds": round(confirmed, 2),
        "finished_seconds": round(finished, 2),
        "jobs_per_second": round(arguments.count / finished, 1)}))


if __name__ == "__main__":
    main()
