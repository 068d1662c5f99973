"""Any gymnasium world with an RGB picture, for the agent: 64x64 frames in, float vectors out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from env.run.errors import UserError
from env.run.settings import World
from env.worlds.frames import SIZE, shrink


class PictureWorld(gymnasium.Wrapper):
    """A gymnasium world with 64x64x3 uint8 observations: those of the world itself where they are RGB pictures, else what it
    renders, shrunk by Pillow's bilinear filter.

    Actions: float [A]: the world's own where they are continuous, else one number for each of its actions, of which the largest
    is taken. `render()` gives the world's own picture, uint8 [H, W, 3].

    Args:
        env: gymnasium's id, or what makes the world.
        options: for gymnasium.make, or for `env`.
        crop: rows from, rows to, columns from, columns to; None for the whole picture.
        settings: episodes are cut after settings.max_steps.

    Raises:
        UserError: the world cannot be made, has no RGB picture, or its actions are of another kind; the message says which.
    """

    def __init__(
        self,
        env: str | Callable[..., gymnasium.Env],
        options: dict[str, Any],
        crop: tuple[int, int, int, int] | None,
        settings: World,
    ) -> None:
        self._name = env if isinstance(env, str) else getattr(env, "__name__", str(env))
        if crop is not None and not (len(crop) == 4 and all(isinstance(edge, int) for edge in crop)):
            raise UserError(f"{self._name}: crop is {crop}: give four whole numbers, the first row, the last, and so the columns")
        if settings.frames != "plain":
            raise UserError(f"world.frames is {settings.frames}: {self._name} has plain ones only")
        super().__init__(self._make(env, options, settings.max_steps))
        space = self.env.observation_space
        self._seen = isinstance(space, spaces.Box) and space.dtype == np.uint8 and space.shape[2:] == (3,)
        if not self._seen and "rgb_array" not in self.env.metadata.get("render_modes", ()):
            raise UserError(f"{self._name} has no RGB picture: its observations are {space}, and it does not render 'rgb_array'")
        self._discrete = isinstance(self.env.action_space, spaces.Discrete)
        if not self._discrete and not (isinstance(self.env.action_space, spaces.Box) and len(self.env.action_space.shape) == 1):
            raise UserError(f"{self._name} takes actions {self.env.action_space}: only Discrete and vectors (Box) are served")
        self._start = int(getattr(self.env.action_space, "start", 0))
        self._crop = crop
        self._observation: Any = None
        self.draws = True  # else observations are None, and who wants to see one looks
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)

    def _make(self, env: str | Callable[..., gymnasium.Env], options: dict[str, Any], max_steps: int) -> gymnasium.Env:
        if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame, which draws into memory here, else complains that it finds none
        try:
            if isinstance(env, str):
                return gymnasium.make(env, max_episode_steps=max_steps, disable_env_checker=True, render_mode="rgb_array", **options)
            return gymnasium.wrappers.TimeLimit(env(render_mode="rgb_array", **options), max_steps)
        except Exception as error:
            raise UserError(f"the world {self._name} cannot be made: {type(error).__name__}: {error}") from None

    @property
    def action_size(self) -> int:
        """A, the length of an action."""
        space = self.env.action_space
        return int(space.n) if isinstance(space, spaces.Discrete) else int(space.shape[0])  # type: ignore[index]

    @property
    def discrete(self) -> bool:
        """Whether the world's actions are numbers."""
        return self._discrete

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float32)
        if action.shape != (self.action_size,) or not np.isfinite(action).all():
            raise ValueError(f"action is {action}: {self._name} needs {self.action_size} finite numbers")
        own = self._start + int(action.argmax()) if self._discrete else action
        self._observation, reward, terminated, truncated, info = self.env.step(own)
        return self._shown(), float(reward), bool(terminated), bool(truncated), info

    def _shown(self) -> Any:
        return self.look() if self.draws else None

    def look(self) -> np.ndarray:
        """What is to be seen now: uint8 [64, 64, 3].

        Raises:
            UserError: the world gives another picture than it said.
        """
        picture = np.asarray(self._observation if self._seen else self.env.render())
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise UserError(f"{self._name} gives no RGB picture: {picture.dtype} {list(picture.shape)} where uint8 [H, W, 3] is needed")
        if self._crop is not None:
            top, bottom, left, right = self._crop
            height, width = picture.shape[:2]
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                what = f"crop is rows {top} to {bottom} and columns {left} to {right}"
                raise UserError(f"{self._name}: {what}, but its picture has {height} rows and {width} columns")
            picture = picture[top:bottom, left:right]
        return shrink(np.ascontiguousarray(picture))
