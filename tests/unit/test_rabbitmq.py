"""The plan of the module `rabbitmq`, against what a RabbitMQ 4.0 as the role wants it answers."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.synergos.grid.plugins.module_utils import _rabbitmq as rabbitmq
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.modules import rabbitmq as module

ROLE = yaml.safe_load((Path(__file__).parents[2] / "roles/mq/vars/main.yml").read_text())
PASSWORD = "a-long-one-that-nobody-else-has-0123456789"
OPTIONS: dict[str, Any] = {
    "users": {"director": "director", "ttp_1": "ttp", "ttp_2": "ttp"},
    "passwords": dict.fromkeys(("director", "ttp_1", "ttp_2"), PASSWORD),
    "rights": ROLE["mq__rights"],
    "exchanges": ROLE["mq__exchanges"],
    "queues": ROLE["mq__queues"],
    "bindings": ROLE["mq__bindings"],
    "policies": [{"name": "jobs", "pattern": "^train$", "definition": {"delivery-limit": 6}}],
}
HERE = {"vhost": "/"}


def found() -> dict[str, Any]:
    """Definitions as RabbitMQ gives them, with what others put there."""
    durable = {"durable": True, "auto_delete": False}
    return copy.deepcopy(
        {
            "rabbitmq_version": "4.0.5",
            "users": [
                {"name": name, "password_hash": rabbitmq.password_hash(PASSWORD, b"salt"), "tags": ["synergos"]}
                for name in OPTIONS["users"]
            ]
            + [{"name": "mine", "password_hash": "", "tags": ["monitoring"]}],
            "permissions": [
                {"user": name, **HERE, **OPTIONS["rights"][kind]} for name, kind in OPTIONS["users"].items()
            ],
            "exchanges": [{**item, **HERE, **durable, "arguments": {}} for item in OPTIONS["exchanges"]],
            "queues": [
                {"name": item["name"], **HERE, **durable, "arguments": {"x-queue-type": item["type"]}}
                for item in OPTIONS["queues"]
            ]
            + [{"name": "train", "vhost": "other", **durable, "arguments": {}}],
            "bindings": [
                {"source": item["exchange"], "destination": item["queue"], "routing_key": item["key"], **HERE}
                for item in OPTIONS["bindings"]
            ],
            "policies": [{**item, **HERE, "apply-to": "queues", "priority": 0} for item in OPTIONS["policies"]],
        }
    )


def named(there: dict[str, Any], kind: str, name: str) -> Any:
    (item,) = [item for item in there[kind] if item["name"] == name and item.get("vhost", "/") == "/"]
    return item


def test_nothing_is_to_be_done_where_all_is_right() -> None:
    assert rabbitmq.plan(OPTIONS, found()) == []


def test_everything_is_created_where_there_is_nothing() -> None:
    steps = rabbitmq.plan(OPTIONS, {})
    kinds = [step.kind for step in steps]
    assert kinds == ["policy"] + ["exchange"] * 5 + ["queue"] * 6 + ["binding"] * 9 + ["user"] * 3
    assert {step.action for step in steps} == {"create"}


@pytest.mark.parametrize(
    ("harm", "expected", "path"),
    [
        (lambda t: t["queues"].remove(named(t, "queues", "train")), "queue train create", "/queues/%2F/train"),
        (
            lambda t: t["exchanges"].remove(named(t, "exchanges", "SynMQ_topic_logs")),
            "exchange SynMQ_topic_logs create",
            "/exchanges/%2F/SynMQ_topic_logs",
        ),
        (
            lambda t: t["bindings"][0].update(routing_key="x"),
            "binding SynMQ_topic_logs → preprocess create",
            "/bindings/%2F/e/SynMQ_topic_logs/q/preprocess",
        ),
        (lambda t: t["policies"][0].update(priority=1), "policy jobs update", "/policies/%2F/jobs"),
        (lambda t: t["policies"][0]["definition"].update(x=1), "policy jobs update", "/policies/%2F/jobs"),
        (lambda t: t["permissions"][1].update(write=".*"), "user ttp_1 update", "/permissions/%2F/ttp_1"),
        (lambda t: named(t, "users", "ttp_1").update(tags=["administrator"]), "user ttp_1 update", "/users/ttp_1"),
        (
            lambda t: named(t, "users", "ttp_1").update(password_hash=rabbitmq.password_hash("another")),
            "user ttp_1 update",
            "/users/ttp_1",
        ),
        (lambda t: t["users"].append({"name": "guest", "tags": []}), "user guest delete", "/users/guest"),
        (
            lambda t: t["users"].append({"name": "ttp_3", "tags": ["synergos"]}),
            "user ttp_3 delete",
            "/users/ttp_3",
        ),
    ],
)
def test_what_differs_is_named_and_put_right(harm: Callable[[Any], object], expected: str, path: str) -> None:
    there = found()
    harm(there)
    (step,) = rabbitmq.plan(OPTIONS, there)
    assert f"{step.kind} {step.name} {step.action}" == expected
    assert [request[1] for request in step.requests] == [path]
    assert step.reasons and PASSWORD not in json.dumps(step.report())


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (
            lambda t: named(t, "queues", "train").update(arguments={}),
            "the queue 'train' as classic; it is to be quorum",
        ),
        (lambda t: named(t, "queues", "train").update(durable=False), "as quorum, not durable; it is to be quorum and"),
        (lambda t: named(t, "exchanges", "SynMQ_topic_logs").update(type="direct"), "exchange 'SynMQ_topic_logs' as d"),
    ],
)
def test_what_cannot_be_put_right_is_refused(harm: Callable[[Any], object], expected: str) -> None:
    there = found()
    harm(there)
    with pytest.raises(GridError, match=expected):
        rabbitmq.plan(OPTIONS, there)


def test_passwords_are_kept_as_rabbitmq_keeps_them() -> None:
    kept = rabbitmq.password_hash(PASSWORD)
    raw = base64.b64decode(kept)
    assert raw[4:] == hashlib.sha256(raw[:4] + PASSWORD.encode()).digest()
    assert kept == rabbitmq.password_hash(PASSWORD) and rabbitmq.same_password(kept, PASSWORD)
    assert not rabbitmq.same_password(kept, PASSWORD + "x")
    # The example in RabbitMQ's guide to passwords.
    assert (
        rabbitmq.password_hash("test12", bytes.fromhex("908dc60a"))
        == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"users": {"a": "b"}}, "users: a is to have the rights 'b', which the option rights does not tell"),
        ({"passwords": {}}, "passwords: the user director has none"),
        ({"rights": {**OPTIONS["rights"], "x": {"read": ""}}}, "rights: x is to tell configure, write and read"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(GridError, match=expected):
        module.check({**OPTIONS, **changes})


def test_limits_of_at_least_once_dead_letters_are_kept() -> None:
    """RabbitMQ ignores the strategy without this overflow, and results must not come back to where they failed."""
    by_name = {policy["name"]: policy for policy in ROLE["mq__policies"]}
    assert ROLE["mq__safe"] == {
        "dead-letter-exchange": "SynMQ_topic_dead",
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",
    }
    assert "'dead-letter-routing-key': 'SynMQ_fanout_completed'" in by_name["results"]["definition"]
