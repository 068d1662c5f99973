"""CarRacing for the agent: gymnasium's CarRacing-v3 seen as 64x64 frames.

Physics, rewards, tracks and seeds are gymnasium's, untouched. What differs is the observation: the original crops the
indicator bar (rows 84..95) away and resizes to 64x64x3 (original carracing/env.py). With `render="official"` the frames are
gymnasium's own to the bit, with `render="fast"` nearly so, and many times faster to draw (env/worlds/drawing.py).

Importing this module registers "WorldModels/CarRacing-v0".
"""

from __future__ import annotations

import cmath
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d.car_racing import CarRacing as GymnasiumCarRacing

from env.worlds.drawing import ROWS, ExactPainter, TrackPainter
from env.worlds.frames import SIZE, process_as_original


def process(picture: np.ndarray) -> np.ndarray:
    """Crop the indicator bar and resize.

    Args:
        picture: uint8 [96, 96, 3], gymnasium's observation, or its top 84 rows.

    Returns:
        uint8 [64, 64, 3].
    """
    return cv2.resize(picture[:ROWS], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


# What `info` tells of the drive: of each number below, whether it is above so many marks, an equal step apart, the middle one at 0 where it
# has a sign. Tiles are 3.5 units long and 13 wide, and a frame shows some 10 of them ahead; a step of the world is a fiftieth of a second.
MARKS = 15
TILES = {0: 1.0, 2: 1.5, 4: 2.0, 6: 2.5, 8: 3.0, 10: 4.0}  # so many ahead of the nearest: units between marks of its middle's place
SPEED, SLIP, TURN = 6.0, 1.5, 0.25  # units a second ahead and to the right, and radians a second to the left, between marks
PRIVILEGED = MARKS * (len(TILES) + 3)
_MARKS, _FURTHER, _STEPS = np.arange(MARKS) - MARKS // 2, np.array([*TILES]), np.array([*TILES.values()])

_PAINTERS: dict[str, type[TrackPainter] | type[ExactPainter]] = {"fast": TrackPainter, "official": ExactPainter}
_PROCESS = {"plain": process, "original": lambda picture: process_as_original(picture[:ROWS])}


class CarRacing(GymnasiumCarRacing):
    """CarRacing-v3 with 64x64x3 uint8 observations.

    Actions: float [3], steer in [-1, 1], gas and brake in [0, 1]. Rewards: +1000/N for each new one of the N tiles, -0.1 a
    step, -100 on leaving the playfield. `lap_complete_percent` is 1.0, as in the original's CarRacing-v0, where an episode
    ends only when every tile was visited, off the playfield, or (by the registered limit) after 1000 steps. `info` has `privileged`, how
    the car moves and where the road goes, see `situation`.

    Args:
        render: "fast" for our own drawing of the observations, "official" for gymnasium's, bit by bit.
        frames: "plain" to crop and resize, "original" for the authors' processing of colours.
        render_mode: gymnasium's; what `render()` returns is always gymnasium's own large picture.

    Raises:
        ValueError: on an unknown `render` or `frames`, and on actions that are not three numbers.
    """

    tells_undrawn = True  # what is privileged, when nothing is drawn

    def __init__(self, render: str = "fast", frames: str = "plain", render_mode: str | None = None) -> None:
        if render not in _PAINTERS:
            raise ValueError(f"render is {render!r}: choose 'fast' or 'official'")
        if frames not in _PROCESS:
            raise ValueError(f"frames is {frames!r}: choose 'plain' or 'original'")
        super().__init__(render_mode=render_mode, lap_complete_percent=1.0)
        self._make_painter = _PAINTERS[render]
        self._process = _PROCESS[frames]
        self._painter: TrackPainter | ExactPainter | None = None
        self.draws = True  # else observations are None, and who wants to see one looks
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._painter = None
        observation, info = super().reset(seed=seed, options=options)
        self._middles = np.array([complex(*tile[2:]) for tile in self.track])
        return observation, info | {"privileged": situation(self.car.hull, self._middles)}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if action is not None:  # gymnasium's reset() steps once without an action
            action = np.asarray(action)
            if action.shape != (3,) or not np.isfinite(action).all():
                raise ValueError(f"action is {action}: CarRacing needs three finite numbers, steer, gas and brake")
        obs, reward, terminated, truncated, info = super().step(action)
        if action is not None:
            info |= {"privileged": situation(self.car.hull, self._middles)}
        return obs, float(reward), terminated, truncated, info

    def close(self) -> None:
        self._painter = None  # the world is a cycle of references: its bitmaps need not wait until Python finds it
        super().close()

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        return self.look() if self.draws else None

    def look(self) -> np.ndarray:
        """What is to be seen now: uint8 [64, 64, 3]."""
        if self._painter is None:
            self._painter = self._make_painter(self)
        return self._process(self._painter.frame(self))


def situation(hull: Any, middles: np.ndarray) -> np.ndarray:
    """How the car moves, and where the road goes, as the car sees it: uint8 [PRIVILEGED], MARKS for each number, 1 for each mark below it.

    The numbers are how far to the right of the car's axis the road's middle is, at the nearest tile and so many TILES further on; its speed
    to the right, which is how it slips; how fast it turns to the left; and its speed ahead.

    Args:
        hull: the car's, a body of Box2D.
        middles: of each tile, complex128 [N].
    """
    turned = cmath.exp(-1j * hull.angle)  # the real part is then to the right of the car, the imaginary one ahead
    seen = (middles - complex(*hull.position)) * turned
    velocity = complex(*hull.linearVelocity) * turned
    places = seen[(np.abs(seen).argmin() + _FURTHER) % len(middles)].real / _STEPS
    # The middle mark is at 0, but speed's first one is at one step above it.
    speed = velocity.imag / SPEED - 1 - MARKS // 2
    numbers = np.array([*places, velocity.real / SLIP, hull.angularVelocity / TURN, speed])
    return (numbers[:, None] > _MARKS).ravel().astype(np.uint8)


def _register() -> None:
    gymnasium.register(id="WorldModels/CarRacing-v0", entry_point="env.worlds.carracing:CarRacing", max_episode_steps=1000)


_register()
