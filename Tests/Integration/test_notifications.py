"""A build's end is told, at least once, with one id."""

from farm import eventually
from receiver import Receiver

PIPELINE = """
jobs:
  one:
    steps:
      - run: COMMAND
notify:
  - uses: webhook
    with: {url: "URL", secret: "SECRET"}
"""


def pipeline(receiver, command="'true'"):
    text = PIPELINE.replace("COMMAND", command).replace("URL", receiver.url)
    return text.replace("SECRET", receiver.secret)


def test_success_and_failure_are_told_with_a_signature(farm):
    with Receiver() as receiver:
        good = farm.build(pipeline(receiver))
        bad = farm.build(pipeline(receiver, "'false'"))
        eventually(lambda: len(receiver.deliveries) == 2, 30, "both were told")
        told = {d["build"]: d["outcome"] for d in receiver.deliveries}
        assert told == {good["id"]: "succeeded", bad["id"]: "failed"}
        assert receiver.rejected == []


def test_a_receiver_that_ails_is_told_again_with_the_same_id(farm):
    with Receiver() as receiver:
        receiver.answers = [500, 503]
        build = farm.build(pipeline(receiver))
        eventually(lambda: receiver.deliveries, 60, "it was told in the end")
        assert [d["build"] for d in receiver.deliveries] == [build["id"]]
        assert receiver.answers == []


def test_a_receiver_that_is_gone_for_good_is_told_no_more(farm):
    with Receiver() as receiver:
        receiver.answers = [410]
        build = farm.build(pipeline(receiver))

        def given_up():
            return [n for n in farm.show(build["id"])["notifications"] if n["state"] == "dead"]

        (notification,) = eventually(given_up, 30, "it was given up")
        assert notification["attempts"] == 1
        assert "410" in notification["message"]
