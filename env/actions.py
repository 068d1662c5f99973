"""How C's outputs become the action of a game. An action is always a float32 vector [A]: M is fed it, episodes keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Continuous:
    """C's tanh outputs y become clip(y * scale + offset, low, high), element by element.

    Attributes:
        scale, offset, low, high: a number for each element of the action.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """A, the length of an action, and the number of C's outputs."""
        return len(self.scale)

    @property
    def rest(self) -> np.ndarray:
        """The action of who touches nothing: the one nearest to zero, float32 [A]."""
        return np.clip(np.zeros(self.size), self.low, self.high).astype(np.float32)

    def of_outputs(self, y: Any) -> Any:
        """tanh outputs [..., A] -> actions [..., A]; numpy or TensorFlow, as it comes."""
        scale, offset, low, high = (np.array(part, np.float32) for part in (self.scale, self.offset, self.low, self.high))
        return _clip(y)(y * scale + offset, low, high)

    def of_keys(self, pressed: list[tuple[float, ...]]) -> np.ndarray:
        """The actions of all keys that are held down, added up."""
        return np.clip(np.sum(pressed, axis=0), self.low, self.high).astype(np.float32)


@dataclass(frozen=True)
class Discrete:
    """The game knows `size` actions, by number: C has an output for each, and takes the largest. The action is one-hot.

    Attributes:
        size: A, the number of actions.
    """

    size: int

    @property
    def low(self) -> tuple[float, ...]:
        return (0.0,) * self.size

    @property
    def high(self) -> tuple[float, ...]:
        return (1.0,) * self.size

    @property
    def rest(self) -> np.ndarray:
        """Action 0, which gymnasium's games mostly keep for doing nothing."""
        return np.eye(self.size, dtype=np.float32)[0]

    def of_outputs(self, y: Any) -> Any:
        """tanh outputs [..., A] -> one-hot actions [..., A]; numpy or TensorFlow, as it comes."""
        if isinstance(y, np.ndarray):
            return np.eye(self.size, dtype=np.float32)[y.argmax(axis=-1)]
        import tensorflow as tf

        return tf.one_hot(tf.argmax(y, axis=-1), self.size)

    def of_keys(self, pressed: list[tuple[float, ...]]) -> np.ndarray:
        """The action of the first of the keys that are held down."""
        return np.array(pressed[0], np.float32)


Actions = Continuous | Discrete


def _clip(y: Any) -> Any:
    if isinstance(y, np.ndarray):
        return np.clip
    import tensorflow as tf  # here, so that random policies and --help do without it

    return tf.clip_by_value
