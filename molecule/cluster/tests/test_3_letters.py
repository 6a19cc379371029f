"""Dead letters: what is no message of ours is put aside, what was given up can be put back."""

from __future__ import annotations

import docker
from conftest import TTPS, Broker, Director, eventually, healthy, letters

C = "letters"
RUNS = {"run_1": {"seed": 1}, "run_2": {"seed": 2}}


def test_a_malformed_message_is_put_aside_and_others_go_on(
    director: Director, broker: Broker, client: docker.DockerClient
) -> None:
    assert letters(client, "list") == []
    director.describe(C, RUNS)
    director.align(C)
    for payload in ("{}", "not even JSON"):
        broker.publish("SynMQ_topic_train", payload)
    director.trained(C, ["run_1"])
    found = letters(client, "list")
    assert len(found) == 2 and all("train: rejected: malformed" in line for line in found)


def test_a_job_that_was_given_up_is_done_once_it_is_put_back(
    director: Director, broker: Broker, client: docker.DockerClient
) -> None:
    for name in TTPS:
        client.containers.get(name).stop()
    try:
        assert director.call("POST", director.models(C, "run_2"), {}) == []
        assert eventually(lambda: broker.reject("train") == 1, interval=0.2)

        def given_up() -> bool:
            job = director.jobs(C)[-1]
            return job["state"] == "failed" and "has it among the dead letters" in job["reason"]

        assert eventually(given_up, interval=0.2), director.jobs(C)
    finally:
        for name in TTPS:
            client.containers.get(name).start()
    found = letters(client, "replay")
    assert sorted(line.split(":")[0] for line in found) == ["left", "left", "put back"]
    assert eventually(lambda: director.jobs(C)[-1]["state"] == "done"), director.jobs(C)
    assert set(director.losses(C, director.jobs(C))) == set(RUNS)
    assert len(letters(client, "list")) == 2
    assert eventually(lambda: healthy(client, TTPS))
