"""How records look in answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from synergos.jobs import METAS
from synergos.orchestrator.database import Body, Record, Records
from synergos.orchestrator.kinds import (
    ALIGNMENT,
    COLLABORATION,
    EXPERIMENT,
    PARTICIPANT,
    PREDICTION,
    PROJECT,
    REGISTRATION,
    RELATIONS,
    TAG,
    VALIDATION,
    Kind,
)

COMPONENTS = ("catalogue", "logs", "meter", "mlops", "mq")
_PROFILE = ("id", "category", "summary", "phone", "email", "socials")
_SPACERS: Body = {"X": [], "y": []}


def show(records: Records, found: Sequence[Record]) -> list[Body]:
    """Return records of one kind with what belongs to them, as the API shows them."""
    if not found:
        return []
    kind = found[0].kind
    shown = [_flat(records, record) for record in found]
    if kind in RELATIONS:
        below = {relation: _below(records, relation, found) for relation in RELATIONS[kind]}
        for record, item in zip(found, shown, strict=True):
            identity = tuple(record.key.values())
            item["relations"] = {relation.name: below[relation][identity] for relation in RELATIONS[kind]}
    return shown


def show_raw(records: Records, record: Record) -> Body:
    """Return a record as it is stored: nothing left out, and `doc_id` as a number."""
    [shown] = show(records, [record])
    return {**shown, **record.body, "doc_id": record.doc_id}


def _below(records: Records, kind: Kind, found: Sequence[Record]) -> dict[tuple[str, ...], list[Body]]:
    # One query per relation, however many records are shown: limited to the ids that they have in common.
    names = found[0].kind.key
    common = {name: found[0].key[name] for name in names if len({record.key[name] for record in found}) == 1}
    result: dict[tuple[str, ...], list[Body]] = defaultdict(list)
    for record in records.select(kind, **common):
        result[tuple(record.key[name] for name in names)].append(_flat(records, record))
    return result


def _flat(records: Records, record: Record) -> Body:
    return {
        "doc_id": str(record.doc_id),
        "kind": record.kind.name,
        "key": record.key,
        # The original's time format, its stray "N" included.
        "created_at": record.created_at.strftime("%Y-%m-%d %H:%M:%S N"),
        **_fields(records, record),
    }


def _fields(records: Records, record: Record) -> Body:
    body, kind = record.body, record.kind
    if kind == COLLABORATION:
        return _compact({name: body.get(name) for name in COMPONENTS})
    if kind == REGISTRATION:
        return {**_compact(body), **_joined(records, record)}
    if kind == EXPERIMENT:
        return {"model": [_compact(layer) for layer in body["model"]]}
    if kind == TAG:
        return {**{meta: [] for meta in METAS}, **body}
    if kind == ALIGNMENT:
        return {**dict.fromkeys(METAS, _SPACERS), **body}
    if kind in (VALIDATION, PREDICTION):
        return body
    return _compact(body)


def _joined(records: Records, record: Record) -> Body:
    """Return what a registration shows of the records that it ties together, here with nulls."""
    collaboration = records.get(COLLABORATION, record.key).body
    project = records.get(PROJECT, record.key).body
    participant = records.get(PARTICIPANT, record.key).body
    return {
        "collaboration": {name: _compact(collaboration.get(name) or {}) for name in COMPONENTS},
        "project": {name: project.get(name) for name in ("action", "incentives", "start_at")},
        "participant": {
            **{name: participant.get(name) for name in _PROFILE},
            "category": participant.get("category") or [],
        },
    }


def _compact(body: Body) -> Body:
    """Leave out nulls and, below them, objects that hold nothing."""
    inner = {name: _compact(value) if isinstance(value, dict) else value for name, value in body.items()}
    return {name: value for name, value in inner.items() if value is not None and value != {}}
