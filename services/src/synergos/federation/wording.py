"""How settings that cannot be used are put into words: what is wrong, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

_MUST = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "string_too_long": "must have {max_length} characters or less",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "missing": "is missing",
    "extra_forbidden": "is unknown",
}


def must(error: Any) -> str:
    """Return what an error of pydantic asks for, as the end of a sentence about the value."""
    kind = str(error["type"])
    if kind in _MUST:
        # 0 reads better than 0.0.
        whole = {name: int(x) for name, x in error.get("ctx", {}).items() if isinstance(x, float) and x.is_integer()}
        return _MUST[kind].format(**{**error.get("ctx", {}), **whole})
    if kind.startswith("int_"):
        return "must be a whole number"
    if kind.startswith("float_"):
        return "must be a number"
    if kind.startswith("bool_"):
        return "must be true or false"
    return str(error["msg"])


def choose(name: object, known: Collection[str]) -> str:
    """Return the sentence that offers `known` names instead of `name`, the one that looks like it first."""
    lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.75)
    meant = f"Did you mean {lower[close[0]]}? " if close else ""
    return f"{meant}Supported: {', '.join(known)}."
