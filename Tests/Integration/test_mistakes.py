"""Bad input: one clear answer, and no harm."""

import os
import re
import shutil
import subprocess
import tempfile

import pytest
from farm import Farm, free_port, program

FIVE = """name: five
jbos: {}
jobs:
  build:
    step: []
    resources: {cpu: lots}
    steps:
      - run: make
        uses: checkout
  test:
    needs: [biuld]
    steps:
      - run: make
"""


def test_five_mistakes_are_told_at_once_with_line_column_and_the_right_word(farm):
    result = farm.run(FIVE, code=2)
    text = result.err + result.out
    for line, column, word in [(2, 1, "jobs"), (5, 5, "steps"), (6, 22, "number of CPUs"),
                               (9, 9, "two steps"), (11, 13, "build")]:
        assert re.search(rf"\b{line}:{column}\b.*{word}", text), f"{line}:{column} {word}: {text}"


def test_a_cycle_in_needs_is_told(farm):
    result = farm.run("""
jobs:
  a: {needs: c, steps: [{run: "true"}]}
  b: {needs: a, steps: [{run: "true"}]}
  c: {needs: b, steps: [{run: "true"}]}
""", code=2)
    assert re.search(r"cycle|circle", result.err + result.out)


def test_an_unknown_plugin_is_told(farm):
    result = farm.run("""
jobs:
  a:
    steps:
      - uses: chekout
""", timeout=60)
    assert result.code in (1, 2), result
    assert "chekout" in result.err + result.out


def test_an_unknown_label_fails_at_once_with_the_reason(farm):
    result = farm.run("""
jobs:
  a:
    runs-on: gpu
    steps:
      - run: "true"
""", code=1, timeout=30)
    assert "gpu" in result.err + result.out


def test_a_job_that_asks_for_more_than_any_executor_has_fails_at_once(farm):
    result = farm.run("""
jobs:
  a:
    resources: {cpu: 9999}
    steps:
      - run: "true"
""", code=1, timeout=30)
    assert re.search(r"cpu", result.err + result.out, re.I)


def test_a_missing_directory_is_named(farm):
    result = farm.cli("run", "/no/such/place", code=2)
    assert "/no/such/place" in result.err


def test_a_directory_without_pipeline_is_named(farm, tmp_path):
    result = farm.cli("run", str(tmp_path), code=2)
    assert "millrace.yaml" in result.err


def test_a_wrong_address_is_told_soon(farm):
    folder = farm.project("jobs: {a: {steps: [{run: 'true'}]}}")
    port = free_port()
    result = farm.cli(
        "run", folder, "--scheduler", f"127.0.0.1:{port}", "--cache", f"127.0.0.1:{port}",
        timeout=40)
    assert result.code == 4, result
    assert f"127.0.0.1:{port}" in result.err


@pytest.mark.parametrize("address", ["nonsense", "host:99999", ":7101", "unix:"])
def test_what_is_no_address_is_told(farm, address):
    result = farm.cli("builds", "--scheduler", address, code=2)
    assert len(result.err.splitlines()) <= 2


def test_an_unknown_build_is_told(farm):
    result = farm.cli("logs", "no-such-build")
    assert result.code in (2, 4) and "no-such-build" in result.err, result


def test_a_pipeline_that_is_no_yaml_is_told_with_its_place(farm):
    result = farm.run("jobs: {a: [", code=2)
    assert re.search(r"\d+:\d+", result.err + result.out)


def test_a_directory_that_is_too_odd_to_upload_still_builds(farm):
    folder = farm.project(
        "jobs: {a: {steps: [{uses: checkout}, {run: 'ls -la && test -L link && cat \"ü ñ\"'}]}}",
        {"ü ñ": "odd name\n", "x" * 200: "long\n"})
    os.symlink("nowhere", os.path.join(folder, "link"))
    os.mkfifo(os.path.join(folder, "pipe"))
    result = farm.cli("run", folder, timeout=60)
    assert result.code == 0 and "odd name" in result.out, result


def test_a_full_disk_in_the_workspace_fails_the_step_and_nothing_else(farm, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], stderr=subprocess.PIPE)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    rpc, admin = free_port(), free_port()
    runner = subprocess.Popen(
        [program("millrace-plugin-runner"), "--data", str(small / "data"), "--listen",
         f"127.0.0.1:{rpc}", "--admin-listen", f"127.0.0.1:{admin}", "--pool", "small",
         "--allocator", farm.process("executor-allocator")["address"],
         "--cache", farm.process("content-cache")["address"]],
        stdin=subprocess.DEVNULL, stderr=open(tmp_path / "runner.log", "wb"))
    try:
        pipeline = """
jobs:
  full:
    runs-on: {pool: small}
    steps:
      - run: COMMAND
"""
        result = farm.run(
            pipeline.replace("COMMAND", "head -c 100000000 /dev/zero >big"), code=1, timeout=60)
        assert "No space left on device" in result.out
        # The next job has the space again.
        farm.run(pipeline.replace("COMMAND", "head -c 1000000 /dev/zero >small"), code=0)
        assert runner.poll() is None
    finally:
        runner.terminate()
        try:
            runner.wait(20)
        except subprocess.TimeoutExpired:
            runner.kill()
            runner.wait()
        subprocess.run(["umount", "-l", str(small)], check=False)


@pytest.mark.parametrize("roots", ["", "/"])
def test_a_step_takes_nothing_of_the_farms_own_data(roots, tmp_path, monkeypatch):
    given = tmp_path / "given"
    given.mkdir()
    (given / "source").write_text("source of the machine\n")
    # A step has a /tmp of its own: outside it, it could look by itself.
    folder = tempfile.mkdtemp(prefix="millrace-test-", dir=os.path.expanduser("~"))
    monkeypatch.setenv("MILLRACE_CHECKOUT_ROOTS", roots)
    try:
        with Farm(folder=folder) as farm:
            place = os.path.join(farm.data, "datastore-gateway")
            assert os.listdir(place)
            for use in ("path", "archive", "url"):
                result = farm.run(f"""
jobs:
  thief:
    steps:
      - uses: checkout
        with: {{{use}: "{place}", into: stolen}}
""", code=1)
                assert "which no step may name on this executor" in result.out + result.err, result
            result = farm.run(
                f"jobs: {{thief: {{steps: [{{run: 'ls {farm.data}; cat {place}/*'}}]}}}}")
            if "without a sandbox" not in open(farm.process("plugin-runner")["log"]).read():
                assert result.code == 1 and "datastore-gateway:" not in result.out, result
                assert "plugin-runner-1" in result.out, result
            result = farm.run(f"""
jobs:
  copies:
    steps:
      - uses: checkout
        with: {{path: "{given}"}}
      - run: cat source
""")
            assert result.code == (0 if roots else 1), result
            assert ("source of the machine" in result.out) == bool(roots)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
