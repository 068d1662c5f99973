"""A world in which each action is held for some frames, of which the agent sees the last: fewer, longer steps."""

from __future__ import annotations

from typing import Any

import gymnasium


class Held(gymnasium.Wrapper):
    """Holds each action for `frames` frames of a world, or until the episode ends, and adds up their rewards.

    A world that has `look()`, which draws what it shows, and an attribute `draws` draws only the frames that are seen.

    Args:
        world: whose frames are counted by its own step limit.
        frames: how many.
        past_done: the world is played on after it said that it is over, as the original recorded CarRacing: actions are held beyond
            that, too.
    """

    def __init__(self, world: gymnasium.Env, frames: int, past_done: bool = False) -> None:
        super().__init__(world)
        self._frames, self._past_done = frames, past_done
        # A PictureWorld itself, not the world that it is made of; else the world itself, not gymnasium's wrappers around it.
        self._painter = next((own for own in (world, world.unwrapped) if hasattr(own, "look") and hasattr(own, "draws")), None)
        if self._painter is not None:
            self._painter.draws = False  # type: ignore[attr-defined]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed, options=options)
        return self._seen(frame), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total, over = 0.0, False
        for _ in range(self._frames):
            frame, reward, terminated, truncated, info = self.env.step(action)
            total, over = total + float(reward), over or terminated
            if truncated or (over and not self._past_done):
                break
        return self._seen(frame), total, over, truncated, info

    def _seen(self, frame: Any) -> Any:
        return frame if self._painter is None else self._painter.look()  # type: ignore[attr-defined]
