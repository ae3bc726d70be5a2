"""More than the farm takes: those who come too late are told so, and the others feel nothing."""

import time

import grpc
import pytest
from farm import Farm, eventually
from reflected import Scheduler, outcomes, retry_delay, word

QUEUE_BOUND = 64
QUEUE_TIMEOUT = 10
SUBMITS = 10_000
SMALL = """
jobs:
  one:
    resources: {cpu: 100m, memory: 16MiB}
    steps:
      - run: "true"
"""
# No executor is in this pool, and none in any has as much.
HUGE = """
jobs:
  huge:
    runs-on: {pool: nowhere}
    resources: {cpu: 9999, memory: 9999GiB}
    steps:
      - run: "true"
"""


@pytest.fixture(scope="module")
def scheduler():
    settings = {"MILLRACE_MAX_QUEUED_JOBS": str(QUEUE_BOUND),
                "MILLRACE_QUEUE_TIMEOUT": f"{QUEUE_TIMEOUT}s"}
    with Farm(runners=2, settings=settings) as farm:
        with Scheduler(farm.process("scheduler")["address"]) as scheduler:
            yield scheduler


def test_what_cannot_be_placed_waits_with_a_reason_blocks_nobody_and_is_given_up(scheduler):
    begin = time.monotonic()
    # More urgent than all others, and of the same project.
    huge = scheduler.submit(HUGE, "same", priority=1000)

    def is_told_why():
        answer = scheduler.ExplainBuild(
            scheduler["ExplainBuildRequest"](build_id=huge), timeout=20)
        return "pool nowhere has no executors" in answer.build.jobs[0].waiting_for

    eventually(is_told_why, 5, "it is told why it waits")
    small = [scheduler.submit(SMALL, "same") for _ in range(4)]
    assert [outcomes(scheduler.wait(build)) for build in small] == [[["succeeded"]]] * 4
    assert word(scheduler.build(huge), "state") == "BUILD_STATE_QUEUED"
    ended = scheduler.wait(huge, seconds=QUEUE_TIMEOUT + 20)
    took = time.monotonic() - begin
    assert QUEUE_TIMEOUT - 1 < took < QUEUE_TIMEOUT + 10, took
    assert word(ended, "outcome") == "OUTCOME_TIMED_OUT", ended
    assert "pool nowhere has no executors" in ended.jobs[0].message, ended


def test_ten_thousand_submits_at_once_are_taken_or_told_to_come_back(scheduler):
    requests = [scheduler.request(SMALL, f"flood-{n}", "flood") for n in range(SUBMITS)]
    calls = [scheduler.SubmitBuild.future(request, timeout=120) for request in requests]
    accepted, refused = {}, []
    for number, call in enumerate(calls):
        if call.exception() is None:
            accepted[number] = call.result().build.id
        else:
            assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, call
            assert retry_delay(call) > 0, call
            assert str(QUEUE_BOUND) in call.details(), call
            refused.append(number)
    # Some have run meanwhile and made room for others.
    assert QUEUE_BOUND <= len(accepted) < SUBMITS / 2, len(accepted)

    eventually(lambda: not scheduler.builds("flood", active=True), 60, "all accepted have ended")
    builds = scheduler.builds("flood")
    assert {build.id for build in builds} == set(accepted.values())
    assert all(outcomes(build) == [["succeeded"]] for build in builds)
    # Who comes back is taken, as if it were the first time; who was taken is known.
    late = scheduler.SubmitBuild(requests[refused[0]], timeout=20)
    assert not late.existed
    assert outcomes(scheduler.wait(late.build.id)) == [["succeeded"]]
    number, build = next(iter(accepted.items()))
    again = scheduler.SubmitBuild(requests[number], timeout=20)
    assert again.existed and again.build.id == build
