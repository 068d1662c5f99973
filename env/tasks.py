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
        "fast",
        "who draws the frames: official is gymnasium's drawing, and Doom at 640x480; fast our own, and Doom at 400x300",
        choices=("fast", "official"),
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
        "random",
        "who plays: random weights in C for each episode; an action held for 1..10 steps, or for 1..n with n varied up to 50; "
        "a uniform action each step; or a trained C",
        choices=("random", "hold", "varied", "uniform", "controller"),
    )
    min_frames: int = setting(1, "shorter episodes are not kept, others are played for them", low=1)
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
    learning_rate: float = setting(1e-3, "Adam's learning rate, at the start", low=0)
    grad_clip: float = setting(1.0, "each gradient element is clipped to [-grad_clip, grad_clip]", low=0)
    batch: int = setting(100, "sequences in a training batch", low=1)
    sequences: str = setting(
        "episodes",
        "what a batch is cut from: different episodes drawn at random; or all of them, shuffled and joined into one stream, "
        "M's state carried from window to window",
        choices=("episodes", "stream"),
    )
    window: int = setting(0, "frames in a training sequence; 0 means the whole episode (for sequences of episodes)", low=0)
    restart: bool = setting(False, "whether M is told of an episode's first frame, and predicts the next one: the agent's death")
    restart_weight: float = setting(10.0, "weight of the rare restarts in their loss", low=0)
    min_learning_rate: float = setting(1e-3, "the learning rate falls towards this", low=0)
    decay: float = setting(1.0, "by which factor it falls at each step", low=1e-6, high=1)
    steps: int = setting(4000, "training steps", low=1, resumable=True)
    dtype: str = setting("float32", "compute type of M's products; weights stay float32", choices=("float32", "mixed_bfloat16"))


@dataclass(frozen=True)
class Controller:
    """C and its evolution by CMA-ES (paper A.3, A.4; original train.py, es.py)."""

    world: str = setting("real", "where C is evolved: in the real world, or wholly in M's dream", choices=("real", "dream"))
    temperature: float = setting(0.7, "tau of dreams: 1 is M as trained, more is less predictable (paper 2.2, 4.3)", low=1e-6)
    dream_steps: int = setting(1200, "steps after which a dream is cut", low=1)
    lanes: int = setting(128, "dreams that one process plays side by side", low=1)
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
    render: str = setting("official", "who draws the frames that the agent sees, see --render of training", choices=("fast", "official"))
    dream_episodes: int = setting(0, "episodes to play in M's dream as well, at the temperature of training", low=0)


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
    rnn=Rnn(units=512, sequences="stream", window=500, restart=True, min_learning_rate=1e-5, decay=0.99999, steps=24400),
    controller=Controller(world="dream", temperature=1.15, dream_steps=2100, features="zch", bias=False),
    evaluate=Evaluate(dream_episodes=100),
)
_DOOM_DAY = replace(
    _DOOM_PAPER,
    scale="day",
    extract=replace(_DOOM_PAPER.extract, episodes=2000),
    vae=replace(_DOOM_PAPER.vae, epochs=2),
    rnn=replace(_DOOM_PAPER.rnn, batch=50, window=250, steps=6000),
    controller=replace(_DOOM_PAPER.controller, generations=500, eval_episodes=256),
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
