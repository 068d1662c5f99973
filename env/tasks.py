"""The tasks (games) and their settings: the one place where a number of the paper is written down.

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

from env.settings import UserError, check, setting

SCALES = ("smoke", "day", "paper")
STAGES = ("extract", "vae", "encode", "rnn", "controller", "evaluate")


@dataclass(frozen=True)
class World:
    """The environment, shared by every stage that plays it."""

    render: str = setting(
        "fast", "who draws the frames: our own drawing, or gymnasium's, 25 times slower", choices=("fast", "official")
    )
    frames: str = setting(
        "plain", "how a picture becomes a frame: cropped and resized, or just as the original did", choices=("plain", "original")
    )
    max_steps: int = setting(1000, "steps after which an episode is cut", low=2)


@dataclass(frozen=True)
class Extract:
    """Recording episodes with a random policy (paper 3.1, A.1; original carracing/extract.py)."""

    episodes: int = setting(10000, "episodes to record", low=2, resumable=True)
    policy: str = setting(
        "random", "who drives: the original's random policy, or a trained C, the run's or the shipped", choices=("random", "controller")
    )
    past_done: bool = setting(True, "go on to max_steps when the world says done (original: yes, half the cars leave the playfield)")


@dataclass(frozen=True)
class Vae:
    """V, the convolutional VAE (paper A.1; original vae/vae.py, vae_train.py)."""

    z_size: int = setting(32, "size of the latent vector z", low=1)
    kl_tolerance: float = setting(0.5, "free bits: KL is not pushed below this many nats times z_size", low=0)
    learning_rate: float = setting(1e-4, "Adam's learning rate", low=0)
    batch: int = setting(100, "frames in a training batch", low=1)
    epochs: int = setting(10, "passes over the recorded frames (paper: 1; original code: 10)", low=1, resumable=True)
    limit_steps: int = setting(0, "stop after this many training steps; 0 means no limit", low=0, resumable=True)
    dtype: str = setting("float32", "compute type of V's layers; weights stay float32", choices=("float32", "mixed_bfloat16"))


@dataclass(frozen=True)
class Rnn:
    """M, the MDN-RNN (paper A.2; original rnn/rnn.py, rnn_train.py)."""

    units: int = setting(256, "LSTM units: the size of h and of c", low=1)
    mixtures: int = setting(5, "Gaussians in the mixture of each latent dimension", low=1)
    learning_rate: float = setting(1e-3, "Adam's learning rate", low=0)
    grad_clip: float = setting(1.0, "each gradient element is clipped to [-grad_clip, grad_clip]", low=0)
    batch: int = setting(100, "episodes in a training batch", low=1)
    window: int = setting(0, "frames of an episode in a training sequence, from a random start; 0 means the whole episode", low=0)
    steps: int = setting(4000, "training steps", low=1, resumable=True)


@dataclass(frozen=True)
class Controller:
    """C and its evolution by CMA-ES (paper A.3, A.4; original train.py, es.py)."""

    features: str = setting("zh", "what C sees: z, zh (z and h), zc (z and c) or zch", choices=("z", "zh", "zc", "zch"))
    hidden: int = setting(0, "tanh units in C's hidden layer; 0 means linear", low=0)
    bias: bool = setting(True, "whether C has a bias")
    population: int = setting(64, "candidates in a generation", low=2)
    episodes: int = setting(16, "episodes that each candidate plays; its fitness is their mean", low=1)
    seed_groups: int = setting(32, "candidates i and i + seed_groups play the same episodes (original: 64 candidates, 32 seeds)", low=1)
    sigma: float = setting(0.1, "initial step size sigma0 of CMA-ES", low=1e-12)
    l2: float = setting(0.01, "weight decay: the fitness loses l2 * mean(w^2)", low=0)
    generations: int = setting(1800, "generations to evolve", low=1, resumable=True)
    eval_every: int = setting(25, "generations between scorings of the distribution's mean", low=1)
    eval_episodes: int = setting(1024, "episodes of such a scoring", low=1)
    slots: int = setting(16, "episodes that one process plays side by side", low=1)
    dtype: str = setting("float32", "compute type of V's layers while C plays", choices=("float32", "mixed_bfloat16"))


@dataclass(frozen=True)
class Evaluate:
    """Scoring the agent (paper 3.2: 100 episodes)."""

    episodes: int = setting(100, "episodes to play", low=1, resumable=True)
    render: str = setting(
        "official", "who draws the frames that the agent sees: gymnasium, or our own drawing", choices=("fast", "official")
    )


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
        if self.rnn.window == 1:
            raise UserError("rnn.window is 1: a sequence needs at least 2 frames, or 0 for whole episodes")
        if self.controller.seed_groups > self.controller.population:
            raise UserError(
                f"controller.seed_groups is {self.controller.seed_groups}: it must be at most the population, {self.controller.population}"
            )

    def check_together(self) -> None:
        """Raise UserError when stages contradict each other, which a whole run would find out only hours later."""
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
    """A game, as a value.

    Attributes:
        name: what the user types.
        title: what reports print.
        env_id: the registered gymnasium id of the world.
        env_module: the module whose import registers `env_id`.
        action_scale, action_offset, action_low, action_high: C's tanh outputs y become the action
            clip(y * scale + offset, low, high), element by element. M is fed the same action.
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
    scales={"smoke": _CARRACING_SMOKE, "day": _CARRACING_DAY, "paper": _CARRACING_PAPER},
)

TASKS: dict[str, Task] = {CARRACING.name: CARRACING}


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
