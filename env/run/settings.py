"""Every setting of every stage, with its meaning, and with the paper's value for CarRacing as its default.

Where the paper is silent, the default is that of the authors' released code. env/tasks.py says where the other games and the
smaller scales differ. Nothing here knows of any game: what a check needs to know of one is handed to it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from env.run.errors import UserError
from env.run.flags import check, setting

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
        "who plays: random weights in C for each episode; an action held for 1..10 steps, or for 1..n with n varied up to 300; "
        "a uniform action each step; or a trained C",
        choices=("random", "hold", "varied", "uniform", "controller"),
    )
    agent: str = setting("", "for the policy controller: the run whose agent plays; empty for the one shipped with the project")
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
    min_learning_rate: float = setting(1e-5, "the learning rate falls towards this", low=0)
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
    sharing: int = setting(2, "candidates of a generation that play the same episodes; 0 means all of them", low=0)
    sigma: float = setting(0.1, "initial step size sigma0 of CMA-ES", low=1e-12)
    l2: float = setting(0.01, "weight decay: the fitness loses l2 * mean(w^2)", low=0)
    generations: int = setting(1800, "generations to evolve", low=1, resumable=True)
    es_seed: int = setting(
        0, "seed of CMA-ES and of its episodes: another one is another evolution on the same V and M; 0 means the run's", low=0, high=2**31 - 1
    )
    eval_every: int = setting(25, "generations between scorings of the distribution's mean", low=1)
    eval_episodes: int = setting(1024, "episodes of such a scoring", low=1)
    slots: int = setting(16, "episodes that one process plays side by side", low=1)
    device: str = setting(
        "cpu", "where dreams are computed: cpu on any number of processes, gpu in a single one", choices=("cpu", "gpu")
    )
    dtype: str = setting(
        "float32",
        "compute type while C plays: of V's layers in the real world, of M's products in dreams",
        choices=("float32", "mixed_bfloat16"),
    )

    @property
    def seed_groups(self) -> int:
        """Different sets of episodes in a generation: candidate i plays set i % seed_groups (original: 64 candidates, 32 seeds)."""
        return -(-self.population // (self.sharing or self.population))


@dataclass(frozen=True)
class Evaluate:
    """Scoring the agent (paper 3.2: 100 episodes)."""

    episodes: int = setting(100, "episodes to play", low=1, resumable=True)
    render: str = setting("official", "who draws the frames that the agent sees, see --render of training", choices=("fast", "official"))
    dream_episodes: int = setting(0, "episodes to play in M's dream as well, at the temperature of training", low=0, resumable=True)


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

    @property
    def evolution_seed(self) -> int:
        """The seed of CMA-ES and of the episodes that it compares candidates by."""
        if not self.controller.es_seed:
            return self.seed
        # Another one than that of any run by its own: --es-seed 1 of run 1 is no repetition.
        return int(np.random.SeedSequence((self.seed, self.controller.es_seed)).generate_state(1)[0]) >> 1

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
            sections = {name: _whole(cls, data[name], name) for name, cls in SECTIONS.items()}
            settings = _whole(Settings, flat | sections, "")
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{where} does not fit this version of the program ({error}): start a new run") from None
        settings.check()
        return settings

    def check(self) -> None:
        """Raise UserError when a value is out of bounds or two of a stage contradict each other."""
        check(self, "run")
        for name in SECTIONS:
            check(getattr(self, name), name)
        if self.controller.device == "gpu" and self.controller.world != "dream":
            raise UserError("controller.device is gpu, but worlds run on cores: take cpu, or a controller.world of dream")
        if self.rnn.restart and self.rnn.sequences != "stream":
            raise UserError("rnn.restart needs sequences of a stream: within one episode nobody dies and starts anew")
        if self.rnn.decay < 1 and self.rnn.min_learning_rate > self.rnn.learning_rate:
            raise UserError(f"rnn.min_learning_rate is above rnn.learning_rate, {self.rnn.learning_rate}, which is to fall towards it")
        if self.rnn.sequences == "stream" and not self.rnn.window:
            raise UserError("rnn.window is 0, but sequences of a stream have no end of their own: give a window, such as 500")
        if self.rnn.window == 1:
            raise UserError("rnn.window is 1: a sequence needs at least 2 frames, or 0 for whole episodes")

    def check_dreams(self, step_reward: float) -> None:
        """Raise UserError when these settings ask for a score in dreams, which this game's M cannot give.

        Args:
            step_reward: what the game pays for each step, if it pays for nothing else (env/tasks.py); 0 where it does not.
        """
        if self.controller.world == "dream" and not (step_reward and self.rnn.restart):
            raise UserError(
                "controller.world is dream, but this M dreams of no reward or no end: take real, or a task and rnn.restart that have them"
            )
        if self.evaluate.dream_episodes and not step_reward:
            raise UserError("evaluate.dream_episodes is not 0, but this M dreams of no reward: there is no score in its dreams")

    def check_together(self) -> None:
        """Raise UserError when stages contradict each other, which a whole run would find out only hours later."""
        if self.extract.min_frames > self.world.max_steps:
            raise UserError(
                f"extract.min_frames is {self.extract.min_frames}: no episode is longer than world.max_steps, {self.world.max_steps}"
            )
        frames = self.extract.episodes * self.world.max_steps
        if self.vae.batch > frames:
            raise UserError(f"vae.batch is {self.vae.batch}, but extract.episodes x world.max_steps are {frames} frames at most: lower it")
        if self.rnn.sequences == "stream":
            if self.rnn.batch * self.rnn.window > frames:
                raise UserError(
                    f"rnn.batch x rnn.window is {self.rnn.batch} x {self.rnn.window}, but extract.episodes x world.max_steps "
                    f"are {frames} frames at most: lower them, or record more"
                )
            return
        if self.rnn.window > self.world.max_steps:
            raise UserError(f"rnn.window is {self.rnn.window}: no episode is longer than world.max_steps, {self.world.max_steps}")
        if not self.rnn.window and not self.extract.past_done:
            raise UserError("rnn.window is 0 (whole episodes), which needs episodes of one length: give a window or extract.past_done")
        if self.rnn.batch > self.extract.episodes:
            raise UserError(f"rnn.batch is {self.rnn.batch}: it must be at most extract.episodes, {self.extract.episodes}")


def _whole(cls: type, data: dict[str, Any], name: str) -> Any:
    """A `cls` of the values `data`. Raises KeyError when one is missing: it must not silently become the paper's for CarRacing."""
    for f in dataclasses.fields(cls):
        if f.name not in data:
            raise KeyError(f"{name}.{f.name} is missing" if name else f"{f.name} is missing")
    return cls(**data)


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


def load_settings(path: Path) -> Settings:
    """Read a settings.json. Raises UserError when it is missing or does not fit."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: is '{path.parent}' a run directory?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore it or start a new run") from None
    return Settings.from_dict(data, str(path))
