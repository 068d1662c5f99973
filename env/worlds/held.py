"""A world in which each action is held for some frames, of which the agent sees the last: fewer, longer steps."""

from __future__ import annotations

from typing import Any

import gymnasium


class Held(gymnasium.Wrapper):
    """Holds each action for `frames` frames of a world, or until the episode ends, and adds up their rewards.

    A world that has `look()`, which shows what is to be seen now, and an attribute `draws`, is told before each frame whether it is seen:
    to draw is most of a world's time.

    Args:
        world: whose frames are counted by its own step limit.
        frames: how many.
        max_steps: that limit; the last frame before it is seen.
        past_done: the world is played on after it said that it is over, as the original recorded CarRacing: actions are held beyond
            that, too.
    """

    def __init__(self, world: gymnasium.Env, frames: int, max_steps: int, past_done: bool = False) -> None:
        super().__init__(world)
        self._frames, self._max_steps, self._past_done = frames, max_steps, past_done
        self._steps = 0  # of the world, in this episode
        # A PictureWorld itself, not the world that it is made of; else the world itself, not gymnasium's wrappers around it.
        self._painter = next((own for own in (world, world.unwrapped) if hasattr(own, "look") and hasattr(own, "draws")), None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._steps = 0
        self._draw(True)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total, over, frame = 0.0, False, None
        for number in range(1, self._frames + 1):
            self._steps += 1
            self._draw(number == self._frames or self._steps == self._max_steps)
            frame, reward, terminated, truncated, info = self.env.step(action)
            total, over = total + float(reward), over or terminated
            if truncated or (over and not self._past_done):
                break
        return self._seen(frame), total, over, truncated, info

    def _draw(self, whether: bool) -> None:
        if self._painter is not None:
            self._painter.draws = whether  # type: ignore[attr-defined]

    def _seen(self, frame: Any) -> Any:
        return frame if self._painter is None or self._painter.draws else self._painter.look()  # type: ignore[attr-defined]
