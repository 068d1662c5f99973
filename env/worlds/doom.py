"""DoomTakeCover for the agent: ViZDoom's take_cover seen as 64x64 frames.

Monsters at the far wall shoot fireballs; the player steps left and right to live. The scenario is ViZDoom's own, at its
skill 4 (the level at which random play survives as long as in the paper), one tic a step. As in the original (doomrnn/
doomreal.py) the status bar is drawn and cropped away, top 400 of 480 rows, and the rest resized to 64x64x3.

Importing this module registers "WorldModels/TakeCover-v0".
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gymnasium
import numpy as np
import vizdoom
from gymnasium import spaces

from env.run.errors import UserError
from env.worlds.engine import ADVICE, CRASHES, Engine
from env.worlds.frames import SIZE, process_as_original, shrink

THRESHOLD = 1 / 3  # the action moves left below -1/3 and right above 1/3 (original: 0.3333)
LEFT, STAY, RIGHT = [1, 0], [0, 0], [0, 1]  # the scenario's buttons: MOVE_LEFT, MOVE_RIGHT
ATTEMPTS = 3  # new engines for one that fails
VIEW = 400 / 480  # the part of the rows above the status bar

# What `info` tells of fireballs: which of so many cells there is one to come through.
TIMES, PLACES = 12, 24  # when it will be beside the player, and how far to which side, were it to stand still
TIME, PLACE = 4.0, 24.0  # frames and units of the game in a cell: the player, 16 units from the middle to the side, moves at up to 8
REACH = 22.0  # units from the middle of a player to that of a fireball that touches it
FIREBALL, PLAYER = "DoomImpBall", "DoomPlayer"

# Who draws: the screen's resolution, and how it is shrunk. At 400x300 the 64x64 frames differ from those of the original's
# 640x480 by 1.5 of 255 on average (tests/test_doom.py) and cost a third; at 320x240 the status bar has another height, and
# the view is shifted; below, walls begin to shimmer (2.7 at 200x150).
SCREENS = {
    "fast": (vizdoom.ScreenResolution.RES_400X300, 1.0),
    "official": (vizdoom.ScreenResolution.RES_640X480, None),
}


class TakeCover(gymnasium.Env):
    """ViZDoom's take_cover with 64x64x3 uint8 observations.

    Actions: float [1] in [-1, 1], left below -1/3, right above 1/3, else stay. Rewards: +1 a step. An episode ends with
    the player's death (its last observation is black) or, by the registered limit, after 2100 steps. `info` has the player's
    `health`, from 1 at the start to 0, which no frame shows; a hit costs 0.21, or a multiple of it; and, of each frame that was drawn,
    `privileged`, where the fireballs in the air will come through, see `threats`. The same seed
    and actions give the same episode, in a fresh engine or a used one; an engine that crashes or hangs is replaced, and plays the
    episode again up to where it was, ATTEMPTS times.

    Args:
        render: "official" for the original's screen of 640x480, "fast" for 400x300.
        frames: "plain" to crop and resize, "original" for the authors' processing of colours.
        render_mode: "rgb_array" to have `render()` return the whole screen.

    Raises:
        ValueError: on an unknown `render` or `frames`, and on actions that are not one finite number.
        UserError: the engine does not start, or fails again and again.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}
    _engine: Engine | None = None

    def __init__(self, render: str = "fast", frames: str = "plain", render_mode: str | None = None) -> None:
        if render not in SCREENS:
            raise ValueError(f"render is {render!r}: choose 'fast' or 'official'")
        if frames not in ("plain", "original"):
            raise ValueError(f"frames is {frames!r}: choose 'plain' or 'original'")
        self._resolution, self._gap = SCREENS[render]
        self._original = frames == "original"
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._seed = 0
        self._played: list[list[int]] = []  # this episode's buttons, to play it again
        self._screen: np.ndarray | None = None
        self.draws = True  # else observations are None, and ViZDoom draws nothing, which takes a tenth of the time

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**31))
        self._played = []
        try:
            self._begin()
        except CRASHES as crash:
            self._replay(None, crash)
        return self.look(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action)
        if action.shape != (1,) or not np.isfinite(action).all():
            raise ValueError(f"action is {action}: TakeCover needs one finite number, left below -1/3 and right above 1/3")
        buttons = LEFT if action[0] < -THRESHOLD else RIGHT if action[0] > THRESHOLD else STAY
        try:
            self._play(buttons, self.draws)
        except CRASHES as crash:
            self._replay(buttons, crash)
        self._played.append(buttons)
        return self.look() if self.draws else None, 1.0, self._game.is_episode_finished(), False, self._info()

    def render(self) -> Any:
        """The whole screen, uint8 [H, W, 3]."""
        return self._screen

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __del__(self) -> None:
        if sys is not None and not sys.is_finalizing():
            self.close()

    @property
    def _running(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(self._resolution)
        return self._engine

    @property
    def _game(self) -> Any:
        return self._running.game

    def _begin(self) -> None:
        with self._running.answering() as game:
            game.set_seed(self._seed)
            game.new_episode()

    def _play(self, buttons: list[int], draw: bool) -> None:
        with self._running.answering() as game:
            game.set_action(buttons)
            game.advance_action(1, draw)

    def _replay(self, then: list[int] | None, crash: Exception) -> None:
        """Replace a crashed engine, play the episode up to where it was, and go on with the buttons `then`.

        Raises:
            UserError: new ones crash, too.
        """
        for attempt in range(ATTEMPTS):
            self.close()
            time.sleep(0.1 * 10**attempt)
            try:
                self._begin()
                for buttons in self._played:
                    self._play(buttons, draw=False)
                if then:
                    self._play(then, self.draws)
                return
            except CRASHES as again:
                crash = again
        said = f"{type(crash).__name__}, {str(crash).strip()}"
        raise UserError(f"Doom's engine failed {ATTEMPTS + 1} times in the episode of seed {self._seed} ({said}); {ADVICE}")

    def _info(self) -> dict[str, Any]:
        # ViZDoom tells of the health as of the last frame that it drew, and of a death at once.
        dead = self._game.is_episode_finished()
        health = 0.0 if dead else max(0.0, self._game.get_game_variable(vizdoom.GameVariable.HEALTH) / 100)
        if not (self.draws or dead):
            return {"health": health}
        return {"health": health, "privileged": threats([] if dead else self._game.get_state().objects)}

    def look(self) -> np.ndarray:
        """What was to be seen when ViZDoom drew last, or a dead player's black: uint8 [64, 64, 3]."""
        if self._game.is_episode_finished():  # dead: ViZDoom has no picture of that, or still the last one
            assert self._screen is not None
            self._screen = np.zeros_like(self._screen)
        else:
            self._screen = np.array(self._game.get_state().screen_buffer)
        view = self._screen[: round(len(self._screen) * VIEW)]
        return process_as_original(view) if self._original else shrink(view, self._gap)


def threats(objects: list[Any]) -> np.ndarray:
    """Where the fireballs in the air will come through, as the player sees it: uint8 [TIMES * PLACES], 1 for each cell that one is in.

    A cell is a time, in cells of TIME frames from now on, and a place at its side, in cells of PLACE units from its left to its right, the
    player in the middle. The player looks along the first axis of the game, and moves along the second.

    Args:
        objects: ViZDoom's, of which the player's and the fireballs' positions and velocities count.
    """
    cells = np.zeros((TIMES, PLACES), np.uint8)
    player = next((own for own in objects if own.name == PLAYER), None)
    for ball in objects if player else ():
        towards = ball.position_x - player.position_x
        if ball.name != FIREBALL or not ball.velocity_x or towards < -REACH:  # one that burst stands still
            continue
        time = max(0.0, -towards / ball.velocity_x)
        place = player.position_y - (ball.position_y + time * ball.velocity_y)
        when, where = int(time // TIME), int(place // PLACE) + PLACES // 2
        if when < TIMES and 0 <= where < PLACES:
            cells[when, where] = 1
    return cells.ravel()


def _register() -> None:
    gymnasium.register(id="WorldModels/TakeCover-v0", entry_point="env.worlds.doom:TakeCover", max_episode_steps=2100)


_register()
