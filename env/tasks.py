"""The tasks (games) and their settings at each scale; what a setting means is told in env/sections.py.

A task is a value: what the world is called, how C's outputs become an action, and the settings of each stage at three
scales. `paper` holds the paper's settings and, where the paper is silent, those of the authors' released code. `day` is the
best agent that 2 cores reach in about 12 hours. `smoke` reaches every line of every stage in about two minutes.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from env.sections import Controller, Evaluate, Extract, Rnn, Vae, World
from env.settings import UserError, check, setting

SCALES = ("smoke", "day", "paper")
STAGES = ("extract", "vae", "encode", "rnn", "controller", "evaluate")


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's results; saved as settings.json in the run."""

    task: str = "carracing"
    scale: str = "paper"
    seed: int = setting(1, "seed of everything random", low=0, high=2**31 - 1)
    world: World = field(default_factory=World)
    extract: Extract = field(default_factory=Extract)
    vae: Vae = field(default_factory=Vae)
    rnn: Rnn = field(default_factory=Rnn)
    controller: Controller = field(default_factory=Controller)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, ready for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any], where: str = "settings") -> Settings:
        """The inverse of `to_dict`. Raises UserError on unknown or missing keys; `where` names the source."""
        if not isinstance(data, dict):
            raise UserError(f"{where} holds no settings: restore it or start a new run")
        try:
            flat = {k: v for k, v in data.items() if k not in SECTIONS}
            sections = {name: cls(**data[name]) for name, cls in SECTIONS.items()}
            settings = Settings(**flat, **sections)
        except (TypeError, KeyError) as error:
            raise UserError(f"{where} does not fit this version of the program ({error}): start a new run") from None
        settings.check()
        return settings

    def check(self) -> None:
        """Raise UserError when a value is out of bounds or two of a stage contradict each other."""
        get_task(self.task)
        check(self, "run")
        for name in SECTIONS:
            check(getattr(self, name), name)
        if self.controller.world == "dream" and not (get_task(self.task).step_reward and self.rnn.restart):
            raise UserError(
                "controller.world is dream, but this M dreams of no reward or no end: take real, or a task and rnn.restart that have them"
            )
        if self.controller.device == "gpu" and self.controller.world != "dream":
            raise UserError("controller.device is gpu, but worlds run on cores: take cpu, or a controller.world of dream")
        if self.evaluate.dream_episodes and not get_task(self.task).step_reward:
            raise UserError("evaluate.dream_episodes is not 0, but this M dreams of no reward: there is no score in its dreams")
        if self.rnn.restart and self.rnn.sequences != "stream":
            raise UserError("rnn.restart needs sequences of a stream: within one episode nobody dies and starts anew")
        if self.rnn.decay < 1 and self.rnn.min_learning_rate > self.rnn.learning_rate:
            raise UserError(f"rnn.min_learning_rate is above rnn.learning_rate, {self.rnn.learning_rate}, which is to fall towards it")
        if self.rnn.sequences == "stream" and not self.rnn.window:
            raise UserError("rnn.window is 0, but sequences of a stream have no end of their own: give a window, such as 500")
        if self.rnn.window == 1:
            raise UserError("rnn.window is 1: a sequence needs at least 2 frames, or 0 for whole episodes")
        if self.controller.seed_groups > self.controller.population:
            raise UserError(
                f"controller.seed_groups is {self.controller.seed_groups}: it must be at most the population, {self.controller.population}"
            )

    def check_together(self) -> None:
        """Raise UserError when stages contradict each other, which a whole run would find out only hours later."""
        if self.extract.min_frames > self.world.max_steps:
            raise UserError(
                f"extract.min_frames is {self.extract.min_frames}: no episode is longer than world.max_steps, {self.world.max_steps}"
            )
        if self.rnn.sequences == "stream":
            return
        if self.rnn.window > self.world.max_steps:
            raise UserError(f"rnn.window is {self.rnn.window}: no episode is longer than world.max_steps, {self.world.max_steps}")
        if not self.rnn.window and not self.extract.past_done:
            raise UserError("rnn.window is 0 (whole episodes), which needs episodes of one length: give a window or extract.past_done")
        if self.rnn.batch > self.extract.episodes:
            raise UserError(f"rnn.batch is {self.rnn.batch}: it must be at most extract.episodes, {self.extract.episodes}")


SECTIONS: dict[str, type] = {
    "world": World,
    "extract": Extract,
    "vae": Vae,
    "rnn": Rnn,
    "controller": Controller,
    "evaluate": Evaluate,
}

# Which sections decide a stage's result: its own and those of what it is made from.
DEPENDS: dict[str, tuple[str, ...]] = {
    "extract": ("world", "extract"),
    "vae": ("world", "extract", "vae"),
    "encode": ("world", "extract", "vae"),
    "rnn": ("world", "extract", "vae", "rnn"),
    "controller": ("world", "extract", "vae", "rnn", "controller"),
    "evaluate": ("world", "extract", "vae", "rnn", "controller", "evaluate"),
}


@dataclass(frozen=True)
class Task:
    """A game, as a value: all that is said of one game alone, but for its settings, is said here.

    Attributes:
        name: what the user types.
        title: what reports print.
        env_id: the registered gymnasium id of the world.
        env_module: the module whose import registers `env_id`.
        action_scale, action_offset, action_low, action_high: C's tanh outputs y become the action
            clip(y * scale + offset, low, high), element by element. M is fed the same action.
        step_reward: what the world pays for each step, if it pays for nothing else; 0 where M's dream has no reward of its own.
        keys: keyboard key -> the action that it stands for when a person plays; those of several keys are added up.
        frame_rate: steps a second when a person plays.
        recorded_steps, played_steps: how long an episode of the random policy and one of a trained agent is on average, from
            which a run's duration is estimated.
        scales: scale name -> Settings.
    """

    name: str
    title: str
    env_id: str
    env_module: str
    action_scale: tuple[float, ...]
    action_offset: tuple[float, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    step_reward: float
    keys: tuple[tuple[str, tuple[float, ...]], ...]
    frame_rate: int
    recorded_steps: int
    played_steps: int
    scales: dict[str, Settings]

    @property
    def action_size(self) -> int:
        return len(self.action_scale)


_CARRACING_PAPER = Settings()
_CARRACING_DAY = replace(
    _CARRACING_PAPER,
    scale="day",
    extract=Extract(episodes=1000, past_done=False),
    vae=Vae(epochs=1),
    rnn=Rnn(batch=40, window=250, steps=3000),
    # All candidates of a generation drive the same tracks: with few episodes the comparison is fairer so.
    controller=Controller(episodes=4, seed_groups=1, generations=250, eval_episodes=128, slots=32),
)
_CARRACING_SMOKE = replace(
    _CARRACING_PAPER,
    scale="smoke",
    world=World(max_steps=100),
    extract=Extract(episodes=8),
    vae=Vae(batch=20, epochs=1),
    rnn=Rnn(batch=4, window=50, steps=20),
    controller=Controller(population=4, episodes=1, seed_groups=2, generations=2, eval_every=1, eval_episodes=2, slots=2),
    evaluate=Evaluate(episodes=4),
)

CARRACING = Task(
    name="carracing",
    title="CarRacing",
    env_id="WorldModels/CarRacing-v0",
    env_module="env.carracing",
    # steer = y0, gas = (y1 + 1) / 2, brake = clip(y2, 0, 1): original carracing/model.py
    action_scale=(1.0, 0.5, 1.0),
    action_offset=(0.0, 0.5, 0.0),
    action_low=(-1.0, 0.0, 0.0),
    action_high=(1.0, 1.0, 1.0),
    step_reward=0.0,
    keys=(("left", (-1.0, 0.0, 0.0)), ("right", (1.0, 0.0, 0.0)), ("up", (0.0, 1.0, 0.0)), ("down", (0.0, 0.0, 0.8))),
    frame_rate=50,
    recorded_steps=1000,
    played_steps=1000,
    scales={"smoke": _CARRACING_SMOKE, "day": _CARRACING_DAY, "paper": _CARRACING_PAPER},
)

_DOOM_PAPER = Settings(
    task="doom",
    world=World(max_steps=2100),
    extract=Extract(policy="hold", past_done=False, min_frames=101),
    vae=Vae(z_size=64),
    rnn=Rnn(units=512, sequences="stream", window=500, restart=True, decay=0.99999, steps=24400),
    controller=Controller(world="dream", temperature=1.15, dream_steps=2100, features="zch", bias=False),
    evaluate=Evaluate(dream_episodes=100),
)
_DOOM_DAY = replace(
    _DOOM_PAPER,
    scale="day",
    # With fewer episodes than the paper's, holds of up to 10 steps show too little of the side walls (controller/random_policy.py).
    extract=replace(_DOOM_PAPER.extract, episodes=5000, policy="varied"),
    vae=replace(_DOOM_PAPER.vae, epochs=1),
    # The shipped agent's shape of batches and evolution, four times as long (README).
    rnn=replace(_DOOM_PAPER.rnn, batch=50, window=250, steps=20000, decay=0.9998),
    controller=replace(_DOOM_PAPER.controller, episodes=8, seed_groups=1, lanes=256, generations=240, eval_every=10, eval_episodes=256),
)
_DOOM_SMOKE = replace(
    _DOOM_PAPER,
    scale="smoke",
    world=World(max_steps=150),
    extract=replace(_DOOM_PAPER.extract, episodes=8),
    vae=replace(_DOOM_PAPER.vae, batch=20, epochs=1),
    rnn=replace(_DOOM_PAPER.rnn, batch=4, window=50, steps=20),
    controller=replace(
        _DOOM_PAPER.controller,
        dream_steps=150,
        population=4,
        episodes=2,
        seed_groups=2,
        generations=2,
        eval_every=1,
        eval_episodes=4,
        lanes=4,
        slots=2,
    ),
    evaluate=Evaluate(episodes=4, dream_episodes=4),
)

DOOM = Task(
    name="doom",
    title="DoomTakeCover",
    env_id="WorldModels/TakeCover-v0",
    env_module="env.doom",
    # The world itself takes tanh's answer, and so does M: original doomrnn/doomreal.py
    action_scale=(1.0,),
    action_offset=(0.0,),
    action_low=(-1.0,),
    action_high=(1.0,),
    step_reward=1.0,
    keys=(("left", (-1.0,)), ("right", (1.0,))),
    frame_rate=35,
    recorded_steps=310,
    played_steps=800,
    scales={"smoke": _DOOM_SMOKE, "day": _DOOM_DAY, "paper": _DOOM_PAPER},
)

TASKS: dict[str, Task] = {task.name: task for task in (CARRACING, DOOM)}


def get_task(name: str) -> Task:
    """The task called `name`. Raises UserError, naming the tasks that exist."""
    if name not in TASKS:
        raise UserError(f"unknown task '{name}': choose one of {', '.join(TASKS)}")
    return TASKS[name]


def load_settings(path: Path) -> Settings:
    """Read a settings.json. Raises UserError when it is missing or does not fit."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: is '{path.parent}' a run directory?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore it or start a new run") from None
    return Settings.from_dict(data, str(path))
