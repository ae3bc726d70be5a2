"""What a user sees of the commands themselves."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time

import pytest
from farm import eventually, free_port, processes_with, program

# Long enough for a follower to be there before its end.
SLOW = """
jobs:
  slow:
    steps:
      - name: Wait
        run: echo begin; sleep 2; echo end
"""
LONG = """
jobs:
  long:
    steps:
      - run: echo begin; sleep 1000
"""


def start(farm, *arguments):
    """Starts a command whose output is read while it runs."""
    return subprocess.Popen(
        [program("millrace"), *arguments], env=farm.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(stream, word):
    """The lines up to one with this word."""
    lines = []
    for line in stream:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"no {word!r} in {lines}")


def test_logs_are_followed_to_the_end(farm):
    follower = start(farm, "logs", "-f", farm.submit(SLOW))
    read_until(follower.stdout, "begin")
    assert follower.poll() is None
    rest, errors = follower.communicate(timeout=30)
    assert (rest, errors, follower.returncode) == ("end\n", "", 0)


def test_logs_are_followed_as_json(farm):
    follower = start(farm, "logs", "-f", farm.submit(SLOW), "--output", "json")
    first = json.loads(read_until(follower.stdout, "begin")[0])
    assert first.pop("log")
    assert first == {"job": "slow", "attempt": 1, "step": "Wait", "text": "begin"}
    assert follower.poll() is None
    rest, errors = follower.communicate(timeout=30)
    assert [json.loads(line)["text"] for line in rest.splitlines()] == ["end"], errors
    assert follower.returncode == 0


def test_attempts_of_a_job_are_followed_one_after_the_other(farm):
    build = farm.build("""
jobs:
  twice:
    steps:
      - run: seq 1 20000; exit 1
""")
    farm.cli("retry", build["id"], "--watch", code=1)
    expected = "".join(f"{number}\n" for number in range(1, 20001))
    assert farm.cli("logs", "-f", build["id"], code=0).out == expected * 2


@pytest.mark.parametrize("how", [(), ("-f",)])
def test_lines_of_several_jobs_stand_behind_their_names(farm, how):
    build = farm.build("""
jobs:
  a: {steps: [{run: echo from the first}]}
  b: {steps: [{run: printf 'from the second'}]}
""")
    lines = farm.cli("logs", *how, build["id"], code=0).out.splitlines()
    assert sorted(lines) == ["a | from the first", "b | from the second"]


def test_ctrl_c_cancels_the_build(farm):
    folder = farm.project(LONG)
    runner = start(farm, "run", folder)
    build = re.search(r"build (\S+)", read_until(runner.stdout, "begin")[0]).group(1)
    runner.send_signal(signal.SIGINT)
    out, errors = runner.communicate(timeout=30)
    assert runner.returncode == 3, out + errors
    assert "cancelling" in errors and "cancelled" in out
    assert farm.wait(build)["outcome"] == "cancelled"
    eventually(
        lambda: not processes_with(f"MILLRACE_BUILD={build}"), 20, "its processes are gone")


def test_ctrl_c_cancels_the_build_while_the_scheduler_is_away(stack):
    runner = start(stack, "run", stack.project(LONG))
    read_until(runner.stdout, "begin")
    old = stack.kill("scheduler")
    runner.send_signal(signal.SIGINT)
    out, errors = runner.communicate(timeout=60)
    assert runner.returncode == 3, out + errors
    stack.wait_restarted(old)


def test_a_second_ctrl_c_leaves_a_build_that_could_not_be_cancelled(stack):
    runner = start(stack, "run", stack.project(LONG))
    build = re.search(r"build (\S+)", read_until(runner.stdout, "begin")[0]).group(1)
    scheduler = stack.process("scheduler")["pid"]
    os.kill(scheduler, signal.SIGSTOP)
    try:
        runner.send_signal(signal.SIGINT)
        read_until(runner.stderr, "cancelling")
        runner.send_signal(signal.SIGINT)
        _, errors = runner.communicate(timeout=10)
    finally:
        os.kill(scheduler, signal.SIGCONT)
    assert runner.returncode == 4, errors
    assert f"left build {build}, which was not cancelled" in errors
    stack.cli("cancel", build, code=0)


def test_watch_leaves_at_once_where_nobody_listens(farm):
    begin = time.monotonic()
    result = farm.cli("watch", "some-build", "--scheduler", f"127.0.0.1:{free_port()}", code=4)
    assert time.monotonic() - begin < 10
    assert len(result.err.splitlines()) == 1, result


def test_a_terminal_gets_a_live_view(farm):
    folder = farm.project("""
jobs:
  colour:
    steps:
      - name: Print
        run: echo "words of the job"; sleep 1
""")
    environment = {**farm.environment(), "TERM": "xterm-256color"}
    del environment["NO_COLOR"]
    child, terminal = pty.fork()
    if child == 0:
        os.execve(program("millrace"), ["millrace", "run", folder], environment)
    shown = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # The other side is closed.
            break
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    text = shown.decode()
    assert "\x1b[?25l" in text and text.count("\x1b[?25h") == 1, "the cursor goes and comes back"
    assert re.search(r"\x1b\[\d+A\r\x1b\[J", text), "the view is drawn anew"
    assert "words of the job" in text
    summary = text[text.index("\x1b[?25h"):]
    assert "\x1b[32m" in summary and "succeeded" in summary


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_its_completion(farm, tmp_path, shell):
    script = farm.cli("completion", shell, code=0).out
    assert "millrace" in script and "executors" in script
    # bash is everywhere; the others are asked where they are installed.
    if shell == "bash" or shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        done = subprocess.run([shell, "-n", str(path)], stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_executors_are_listed(farm):
    lines = farm.cli("executors", code=0).out.splitlines()
    assert lines[0].split() == [
        "EXECUTOR", "POOL", "STATE", "SLOTS", "CPU", "MEMORY", "LABELS", "ADDRESS"]
    rows = [line.split() for line in lines[1:]]
    assert [row[:3] for row in rows] == [
        ["runner-1", "default", "ready"], ["runner-2", "default", "ready"]]
    addresses = [
        process["address"] for process in farm.processes()
        if process["name"].startswith("plugin-runner")]
    assert [row[-1] for row in rows] == addresses


def test_builds_are_listed(farm):
    build = farm.build("""
name: listed
jobs:
  a: {steps: [{run: "true"}]}
  b: {steps: [{run: "true"}]}
""")
    lines = farm.cli("builds", "--limit", "5", code=0).out.splitlines()
    assert lines[0].split() == ["BUILD", "PROJECT", "NAME", "STATE", "JOBS", "CREATED", "TOOK"]
    row = next(line.split() for line in lines[1:] if line.startswith(build["id"]))
    assert row[1:5] == ["project", "listed", "succeeded", "2/2"] and "ago" in row


def test_a_directory_that_git_ignores_is_uploaded(farm):
    folder = farm.project(
        "jobs: {a: {steps: [{uses: checkout}, {run: cat made}]}}", {"made": "by a generator\n"},
        name="ignored")
    outside = os.path.dirname(folder)
    subprocess.run(["git", "init", "-q", outside], check=True)
    with open(os.path.join(outside, ".gitignore"), "w") as file:
        file.write("ignored/\n")
    assert "by a generator" in farm.cli("run", folder, code=0).out


def test_names_that_are_not_utf_8_arrive(farm):
    folder = farm.project(r"""
jobs:
  odd:
    steps:
      - uses: checkout
      - run: cat "$(printf 'f\374r')" "$(printf 'link\377')"
""")
    name = os.path.join(os.fsencode(folder), b"f\xfcr")
    with open(name, "w") as file:
        file.write("latin one\n")
    os.symlink(b"f\xfcr", os.path.join(os.fsencode(folder), b"link\xff"))
    assert farm.cli("run", folder, code=0).out.count("latin one") == 2


def test_what_a_job_kept_twice_is_downloaded_twice(farm, tmp_path):
    build = farm.build("""
jobs:
  twice:
    steps:
      - run: echo first >out
      - uses: artifacts
        with: {path: out, name: early}
      - run: echo second >out
      - uses: artifacts
        with: {path: out, name: late}
""")
    farm.cli("artifacts", "get", build["id"], "--directory", str(tmp_path), code=0)
    assert (tmp_path / "twice" / "out").read_text() == "first\n"
    assert (tmp_path / "twice#2" / "out").read_text() == "second\n"
    # One of them alone needs no directory of its own.
    farm.cli("artifacts", "get", build["id"], "late", "-o", str(tmp_path / "late"), code=0)
    assert (tmp_path / "late" / "out").read_text() == "second\n"


def test_output_that_cannot_be_written_is_told(farm):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [program("millrace"), "builds"], env=farm.environment(), stdin=subprocess.DEVNULL,
            stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 4
    assert b"cannot write to standard output: No space left on device" in done.stderr
