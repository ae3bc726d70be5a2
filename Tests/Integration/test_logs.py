"""Logs of any size are complete, and no process grows with them."""

import hashlib
import subprocess
import threading

from farm import program, resident_bytes

BYTES = 100_000_000
# Each process' bound; a process that kept the log would need the whole of it.
RESIDENT_LIMIT = 90_000_000


def expected_digest():
    """What `seq 1 N | head -c BYTES` is, made without Millrace."""
    digest = hashlib.sha256()
    process = subprocess.Popen(
        ["sh", "-c", f"seq 1 99999999 | head -c {BYTES}"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL)
    while chunk := process.stdout.read(1 << 20):
        digest.update(chunk)
    process.wait()
    return digest.hexdigest()


def test_a_log_of_100_mb_is_complete_and_no_process_grows(stack):
    folder = stack.project(f"""
jobs:
  loud:
    steps:
      - run: (seq 1 99999999 || true) | head -c {BYTES}
""")
    peaks = {}
    follower = subprocess.Popen(
        [program("millrace"), "run", folder], env=stack.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    followed = 0
    done = threading.Event()

    def watch():
        while not done.wait(0.1):
            for process in [*stack.processes(), {"name": "millrace run", "pid": follower.pid}]:
                size = resident_bytes(process["pid"])
                peaks[process["name"]] = max(peaks.get(process["name"], 0), size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        while chunk := follower.stdout.read1(1 << 20):
            followed += len(chunk)
        assert follower.wait(120) == 0
    finally:
        done.set()
        watcher.join()
        follower.kill()
    # The lines are shown with the job's name before them.
    assert followed >= BYTES
    assert {name: size for name, size in peaks.items() if size > RESIDENT_LIMIT} == {}, peaks

    # The list leaves steps out.
    build = stack.wait(stack.json("builds")["builds"][0]["id"])
    step = build["jobs"][0]["attempts"][-1]["steps"][-1]
    assert step["logEnd"] - step["logStart"] == BYTES
    digest = hashlib.sha256()
    reader = subprocess.Popen(
        [program("millrace"), "logs", build["id"], "--job", build["jobs"][0]["id"]],
        env=stack.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    size = 0
    while chunk := reader.stdout.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    assert reader.wait(60) == 0
    assert (size, digest.hexdigest()) == (BYTES, expected_digest())


def test_bytes_of_any_kind_come_back_as_they_were(farm):
    build = farm.build("""
jobs:
  binary:
    steps:
      - run: printf 'a\\000b\\377\\033[31mred\\r\\nno newline at the end'
""")
    done = subprocess.run(
        [program("millrace"), "logs", build["id"], "--job", "binary"], env=farm.environment(),
        stdout=subprocess.PIPE, check=True)
    assert done.stdout.rstrip(b"\n").endswith(
        b"a\x00b\xff\x1b[31mred\r\nno newline at the end")


def test_output_after_output_keeps_its_order(farm):
    build = farm.build("""
jobs:
  both:
    steps:
      - run: for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done
      - run: echo second step
""")
    text = farm.cli("logs", build["id"], "--job", "both", code=0).out
    words = [line for line in text.splitlines() if line.startswith(("out", "err", "second"))]
    assert words == [f"{w} {i}" for i in range(1, 6) for w in ("out", "err")] + ["second step"]
