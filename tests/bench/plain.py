"""The peers' training, written plainly: torch and NumPy, nothing of ours. A Flower app carries this file along."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

LR = 1e-4
Rows = dict[str, NDArray[np.float32]]
Weights = NDArray[np.float32]


class Plain:
    """A network of two hidden layers and its optimiser.

    Args:
        features: inputs.
        hidden: width of both hidden layers.
    """

    def __init__(self, features: int, hidden: int) -> None:
        torch.manual_seed(42)
        self._network = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=LR)
        self.size = sum(weight.numel() for weight in self._network.parameters())

    @property
    def weights(self) -> Weights:
        """All weights, one after the other."""
        return np.concatenate([weight.detach().numpy().ravel() for weight in self._network.parameters()])

    def turn(self, weights: Weights, rows: Rows) -> tuple[Weights, float]:
        """Evaluate `weights`, train them for one epoch over all rows at once; return the new ones and the loss.

        Args:
            rows: `train_X`, `train_y`, `evaluate_X`, `evaluate_y`.
        """
        with torch.no_grad():
            flat, start = torch.from_numpy(weights), 0
            for weight in self._network.parameters():
                weight.copy_(flat[start : start + weight.numel()].view_as(weight))
                start += weight.numel()
            self._loss(rows, "evaluate").item()
        self._optimizer.zero_grad()
        loss = self._loss(rows, "train")
        loss.backward()
        self._optimizer.step()
        return self.weights, loss.item()

    def _loss(self, rows: Rows, meta: str) -> torch.Tensor:
        X, y = (torch.from_numpy(rows[f"{meta}_{side}"]) for side in "Xy")
        return nn.functional.mse_loss(self._network(X), y)


def mean(parts: list[Weights]) -> Weights:
    """Return the average of the participants' weights, who have as many rows each."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    total /= len(parts)
    return total
