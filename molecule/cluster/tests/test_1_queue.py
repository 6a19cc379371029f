"""The broker: who may do what, and what its queues do with messages that nobody can serve."""

from __future__ import annotations

import json

import docker
import pytest
import requests
from conftest import MQ, TTPS, Broker, eventually

JOBS = ("preprocess", "train", "evaluate")
USUAL = [(user, word) for user in ("guest", "admin") for word in ("guest", "admin", "rabbitmq", "password", "")]
# Runs in a component's container with its own login; prints what became of each attempt.
ATTEMPT = """
import json, sys, pika
with open("/run/secrets/queue") as file:
    login = pika.PlainCredentials(*file.read().strip().split(":", 1))
attempts = {
    "send a job": lambda channel: channel.basic_publish("SynMQ_topic_logs", "SynMQ_topic_nowhere", b""),
    "tell of progress": lambda channel: channel.basic_publish("SynMQ_fanout_progress", "", b""),
    "take a job": lambda channel: channel.basic_get("train"),
    "take a result": lambda channel: channel.basic_get("completed"),
    "take a dead letter": lambda channel: channel.basic_get("dead"),
    "delete a queue": lambda channel: channel.queue_delete("train"),
    "make a queue": lambda channel: channel.queue_declare("mine"),
    "delete an exchange": lambda channel: channel.exchange_delete("SynMQ_topic_logs"),
    "take a queue from its exchange": lambda channel: channel.queue_unbind("train", "SynMQ_topic_logs", "#"),
}
found = {}
for name, attempt in attempts.items():
    connection = pika.BlockingConnection(pika.ConnectionParameters(sys.argv[1], 5672, credentials=login))
    channel = connection.channel()
    channel.confirm_delivery()
    try:
        attempt(channel)
        found[name] = "allowed"
        connection.close()
    except pika.exceptions.ChannelClosedByBroker as error:
        found[name] = error.reply_code
print(json.dumps(found))
"""
LOGIN = """
import json, sys, pika
for user, password in json.loads(sys.argv[2]):
    login = pika.PlainCredentials(user, password)
    try:
        pika.BlockingConnection(pika.ConnectionParameters(sys.argv[1], 5672, credentials=login))
    except pika.exceptions.ProbableAuthenticationError:
        continue
    sys.exit(f"{user} may log in with the password {password!r}")
"""
ALLOWED = {
    "sync_director": {"send a job", "take a result", "take a dead letter"},
    "sync_ttp_1": {"take a job", "tell of progress"},
}


def test_usual_credentials_are_refused(client: docker.DockerClient) -> None:
    for login in USUAL:
        assert requests.get(f"{Broker.address}/overview", auth=login, timeout=10).status_code == 401, login
    done = client.containers.get("sync_ttp_1").exec_run(["python", "-c", LOGIN, MQ, json.dumps(USUAL)])
    assert done.exit_code == 0, done.output


def test_users_are_those_of_the_components(broker: Broker) -> None:
    users = {user["name"]: user["tags"] for user in broker.call("GET", "users")}
    components = {name: ["synergos"] for name in ("sync_director", *TTPS)}
    assert users == {"admin": ["administrator"], "health": ["management"], **components}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_component_may_do_its_own_business_only(client: docker.DockerClient, name: str) -> None:
    done = client.containers.get(name).exec_run(["python", "-c", ATTEMPT, MQ])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.decode().splitlines()[-1])
    assert {attempt for attempt, outcome in found.items() if outcome == "allowed"} == ALLOWED[name]
    assert {outcome for outcome in found.values() if outcome != "allowed"} == {403}


def test_queues_are_replicated_logs_with_limits_and_dead_letters(broker: Broker) -> None:
    queues = {queue["name"]: queue for queue in broker.call("GET", "queues")}
    for name in (*JOBS, "completed", "dead"):
        assert queues[name]["type"] == "quorum", queues[name]
    for name in JOBS:
        policy = queues[name]["effective_policy_definition"]
        assert policy["delivery-limit"] > 0 and policy["consumer-timeout"] > 0
        assert (policy["dead-letter-exchange"], policy["dead-letter-strategy"]) == ("SynMQ_topic_dead", "at-least-once")

    # The figures are some seconds old.
    def served() -> bool:
        return all(broker.call("GET", f"queues/%2F/{name}")["consumers"] == 2 for name in JOBS)

    assert eventually(served)
