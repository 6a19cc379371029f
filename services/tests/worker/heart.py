"""A small data set with numbers, text categories and classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# The fixture `write`: (tag, csv, schema, metadata) → path tokens.
Write = Callable[..., list[str]]

HEART = {"age": "int32", "chol": "float64", "sex": "category", "cp": "category", "target": "category"}


def heart(rows: int, seed: int, classes: int = 2) -> str:
    """Rows like those of the heart disease set: the class depends on age and sex."""
    draw = np.random.default_rng(seed)
    lines = ["age,chol,sex,cp,target"]
    for _ in range(rows):
        age, sex = int(draw.integers(30, 80)), draw.choice(["F", "M"])
        label = min(classes - 1, (age - 30) * classes // 50 + (sex == "M"))
        lines.append(f"{age},{draw.normal(220, 40):.1f},{sex},{draw.integers(0, 4)},{label}")
    return "\n".join(lines) + "\n"
