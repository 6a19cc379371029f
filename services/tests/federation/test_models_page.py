"""docs/models.md says what the code takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synergos.federation.layers import ACTIVATIONS, LAYERS, REFUSED
from synergos.federation.objectives import CRITERIONS
from synergos.federation.optimization import OPTIMIZERS, SCHEDULERS
from synergos.federation.parameters import _WITHOUT_EFFECT, Parameters

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text()


def section(title: str) -> str:
    return re.split(r"\n#{2,3} ", PAGE.split(f"# {title}\n")[1])[0]


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Layers", LAYERS),
        ("Activations", [name for name in ACTIVATIONS if name]),
        ("Criterions", CRITERIONS),
        ("Optimisers", OPTIMIZERS),
        ("Schedules", SCHEDULERS),
        ("The run", _WITHOUT_EFFECT - {"run_id"}),
    ],
)
def test_every_name_is_there(title: str, names: list[str]) -> None:
    words = set(re.findall(r"\w+", section(title)))
    assert not set(names) - words


def test_no_layer_is_there_that_is_refused() -> None:
    kinds = {name for row in re.findall(r"^\| [a-z]+ \| (.+) \|$", section("Layers"), re.M) for name in row.split(", ")}
    assert kinds - {"`l_type`"} == set(LAYERS)
    assert not kinds & set(REFUSED)


def test_defaults_and_bounds_of_the_run() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|.*$", section("The run"), re.M))
    bounds = dict(re.findall(r"^\| `(\w+)` \| .+? \| (.*?) \|.*$", section("The run"), re.M))
    assert list(rows) == list(Parameters.model_fields)
    for name, field in Parameters.model_fields.items():
        assert rows[name] == ("null" if field.default is None else str(field.default)), name
        limits = {
            key: getattr(each, key) for each in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(each, key)
        }
        for limit in limits.values():
            shown = "2^63" if limit == 2**63 else str(limit)
            assert re.search(rf"(?<!\d){re.escape(shown)}(?!\d)", bounds[name]), (name, limit)
