"""Every setting of every stage, with its meaning, and with the paper's value for CarRacing as its default.

Where the paper is silent, the default is that of the authors' released code. env/tasks.py says where the other games and the
smaller scales differ. Nothing here knows of any game: what a check needs to know of one is handed to it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from env.run.errors import UserError
from env.run.files import read_json
from env.run.flags import check, setting

SCALES = ("smoke", "day", "paper")
MEMORIES = ("mdnrnn", "rssm")
TRAINERS = ("cmaes", "actor_critic")
# The settings of C that mean something to CMA-ES alone.
EVOLUTIONS = tuple(
    "population episodes sharing curiosity sigma l2 generations es_seed eval_every device search search_first privileged_noise "
    "teacher teacher_rounds teacher_episodes explore".split()
)
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
    max_steps: int = setting(1000, "frames after which an episode is cut", low=2)
    repeat: int = setting(
        1, "frames for which each action is held; the agent sees the last of them, and that is one step for it", low=1, absent=1
    )

    def steps(self, frames: int = 0) -> int:
        """The agent's steps in an episode of so many frames, or in the longest one."""
        return -(-min(frames or self.max_steps, self.max_steps) // self.repeat)


@dataclass(frozen=True)
class Extract:
    """Recording episodes with a random policy (paper 3.1, A.1; original carracing/extract.py)."""

    episodes: int = setting(10000, "episodes to record", low=2, resumable=True)
    policy: str = setting(
        "random",
        "who plays: random weights in C for each episode; an action held for 1..10 steps, or for 1..n with n varied up to 300; "
        "a uniform action each step; or a trained C; mirrored: nobody, the pool's episodes are taken, left for right",
        choices=("random", "hold", "varied", "uniform", "controller", "mirrored"),
    )
    agent: str = setting("", "for the policy controller: the run whose agent plays; empty for the one shipped with the project")
    explore: float = setting(
        0.0,
        "for the policy controller: random actions, each held for 1 to 10 steps, take up to this share of an episode's time; how much, is "
        "drawn for each episode",
        low=0,
        high=0.95,
    )
    pool: str = setting("", "another run whose recordings are learned from as well, and all that it has pooled itself; empty for none")
    min_frames: int = setting(1, "shorter episodes are not kept, others are played for them", low=1)
    past_done: bool = setting(True, "go on to max_steps when the world says done (original: yes, half the cars leave the playfield)")


@dataclass(frozen=True)
class Vae:
    """V, the convolutional VAE (paper A.1; original vae/vae.py, vae_train.py)."""

    source: str = setting(
        "", "whose V to take instead of training one: shipped, the directory of another run, or random for one that learned nothing"
    )
    start: str = setting("", "whose V the training begins with: shipped, or the directory of another run; empty for new weights")
    z_size: int = setting(32, "size of the latent vector z", low=1)
    kl_tolerance: float = setting(0.5, "free bits: KL is not pushed below this many nats times z_size", low=0)
    learning_rate: float = setting(1e-4, "Adam's learning rate", low=0)
    batch: int = setting(100, "frames in a training batch", low=1)
    epochs: int = setting(10, "passes over the recorded frames (paper: 1; original code: 10)", low=1, resumable=True)
    limit_steps: int = setting(0, "stop after this many training steps; 0 means no limit", low=0, resumable=True)
    dtype: str = setting("float32", "compute type of V's layers; weights stay float32", choices=("float32", "mixed_bfloat16"))
    beta_outliers: float = setting(
        0.0,
        "weight of the errors' fourth powers, beside that of their squares, which is 1: what is small but far off, such as a fireball that "
        "is missing, then counts for more",
        low=0,
        absent=0.0,
    )
    beta_privileged: float = setting(
        0.0,
        "weight of the loss of what a world tells in training alone, such as where Doom's fireballs come through: V learns to tell it from "
        "z, so that z holds it; 0 for no such thing",
        low=0,
        absent=0.0,
    )
    privileged_hidden: int = setting(
        512,
        "units of the hidden layer of what tells that from z; 0 for none: then z has to hold it so that a linear C can tell it, too",
        low=0,
        absent=512,
    )


@dataclass(frozen=True)
class Rnn:
    """M, the MDN-RNN (paper A.2; original rnn/rnn.py, rnn_train.py)."""

    source: str = setting("", "whose M to take instead of training one: shipped, or the directory of another run; empty for none")
    start: str = setting("", "whose M the training begins with: shipped, or the directory of another run; empty for new weights")
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
    beta_privileged: float = setting(
        0.0,
        "weight of the loss of what a world tells in training alone, such as where CarRacing's road goes: M learns so that a linear "
        "function of z and h tells it, and so can a linear C; 0 for no such thing",
        low=0,
        absent=0.0,
    )


@dataclass(frozen=True)
class Rssm:
    """M, the recurrent state-space model (PlaNet, Hafner et al. 2019; DreamerV3, Hafner et al. 2023), in the place of the MDN-RNN."""

    source: str = setting("", "whose M to take instead of training one: shipped, or the directory of another run; empty for none")
    start: str = setting("", "whose M the training begins with: shipped, or the directory of another run; empty for new weights")
    observations: str = setting(
        "latents",
        "what M observes: latents of V, which stays as it is; or pixels, through a V that learns with it, beginning with the run's V",
        choices=("latents", "pixels"),
    )
    decoded: float = setting(0.25, "share of the frames whose pixels are decoded in a training step", low=1e-3, high=1)
    units: int = setting(256, "GRU units: the size of the deterministic state h", low=1)
    hidden: int = setting(256, "units of the hidden layer of each of M's networks", low=1)
    groups: int = setting(16, "categorical variables of the stochastic state", low=1)
    classes: int = setting(16, "values of each of them", low=2)
    unimix: float = setting(0.01, "share of the uniform distribution in each of them", low=0, high=1)
    free_nats: float = setting(1.0, "KL is not pushed below this many nats a frame", low=0)
    kl_balance: float = setting(0.9, "share of KL's gradient that teaches the prior; the rest keeps the posterior near it", low=0, high=1)
    beta_recon: float = setting(1.0, "weight of the observation's loss", low=0)
    beta_reward: float = setting(1.0, "weight of the reward's loss", low=0)
    beta_cont: float = setting(1.0, "weight of the continuation's loss", low=0)
    beta_kl: float = setting(1.0, "weight of KL", low=0)
    ends: str = setting(
        "seen",
        "which state the end is learned from: the one that has seen the frame after it, or the one that M imagined before it saw that, as "
        "in a dream",
        choices=("seen", "imagined"),
        absent="seen",
    )
    ends_from: str = setting(
        "deaths",
        "what the end is learned from: deaths; or the agent's health, where the world tells of it: each step ends the episode by the share "
        "of a life that it cost, so that many hits teach what one death would",
        choices=("deaths", "health"),
        absent="deaths",
    )
    ends_ahead: int = setting(
        1, "imagined ends: for how many steps M imagines on from what it saw before it begins again from that", low=1, absent=1
    )
    reward_loss: str = setting(
        "two_hot", "how the reward is learned: as a distribution over bins, or by its squared error", choices=("two_hot", "squared")
    )
    bins: int = setting(63, "bins of such a distribution, between -20000 and 20000, closest around 0", low=3)
    learning_rate: float = setting(3e-4, "Adam's learning rate", low=0)
    grad_clip: float = setting(100.0, "the norm of all gradients together is clipped to this", low=0)
    batch: int = setting(16, "sequences in a training batch", low=1)
    window: int = setting(64, "frames in a training sequence", low=2)
    capacity: int = setting(
        2_000_000,
        "recorded frames that are kept in memory to learn from, at most: 150 to 300 bytes each, 12 kB if pixels are observed",
        low=2,
    )
    steps: int = setting(20000, "training steps", low=1, resumable=True)
    dtype: str = setting("float32", "compute type of M's products; weights stay float32", choices=("float32", "mixed_bfloat16"))
    beta_privileged: float = setting(
        0.0,
        "weight of the loss of what a world tells in training alone, such as where Doom's fireballs come through: M learns to tell it from "
        "what it saw, so that its state holds it; 0 for no such thing",
        low=0,
        absent=0.0,
    )


@dataclass(frozen=True)
class Controller:
    """C and how it is trained, above all its evolution by CMA-ES (paper A.3, A.4; original train.py, es.py)."""

    world: str = setting("real", "where C is evolved: in the real world, or wholly in M's dream", choices=("real", "dream"))
    temperature: float = setting(0.7, "tau of dreams: 1 is M as trained, more is less predictable (paper 2.2, 4.3)", low=1e-6)
    dream_steps: int = setting(1200, "frames after which a dream is cut, of which each of M's steps stands for world.repeat", low=1)
    lanes: int = setting(128, "dreams that one process plays side by side", low=1)
    features: str = setting(
        "zh",
        "what C sees: z, zh (z and h), zc (z and c) or zch; or, for a teacher of others, what the world tells in training alone",
        choices=("z", "zh", "zc", "zch", "privileged"),
    )
    latents: str = setting(
        "sampled",
        "what the agent, C and M, sees of a frame in the real world: a sample of V's posterior (original), or its mean",
        choices=("sampled", "mean"),
        absent="sampled",
    )
    hidden: int = setting(0, "tanh units in C's hidden layer; 0 means linear", low=0)
    bias: bool = setting(True, "whether C has a bias")
    population: int = setting(64, "candidates in a generation", low=2)
    episodes: int = setting(16, "episodes that each candidate plays; its fitness is their mean", low=1)
    sharing: int = setting(2, "candidates of a generation that play the same episodes; 0 means all of them", low=0)
    start: str = setting(
        "",
        "whose C the training begins with: shipped, the directory of another run, or a file of weights; empty for none (CMA-ES: zeros, "
        "as in the paper)",
    )
    sigma: float = setting(0.1, "initial step size sigma0 of CMA-ES", low=1e-12)
    l2: float = setting(0.01, "weight decay: the fitness loses l2 * mean(w^2)", low=0)
    curiosity: float = setting(
        0.0,
        "reward for each step in the real world, times M's loss at it: C looks for what M does not know yet, or, below 0, keeps "
        "to what it knows (paper 5); scores count it in, those of evaluate do not",
    )
    generations: int = setting(1800, "generations to evolve", low=1, resumable=True)
    es_seed: int = setting(
        0,
        "seed of CMA-ES and of its episodes: another one is another evolution on the same V and M; 0 means the run's",
        low=0,
        high=2**31 - 1,
    )
    eval_every: int = setting(25, "generations between scorings of the distribution's mean", low=1)
    eval_episodes: int = setting(1024, "episodes of such a scoring", low=1)
    slots: int = setting(16, "episodes that one process plays side by side", low=1)
    device: str = setting("cpu", "where dreams are computed: cpu on any number of processes, gpu in a single one", choices=("cpu", "gpu"))
    dtype: str = setting(
        "float32",
        "compute type while C plays: of V's layers in the real world, of M's products in dreams",
        choices=("float32", "mixed_bfloat16"),
    )
    search: str = setting(
        "weights",
        "what CMA-ES searches: all of C's weights (paper), or a few directions in which they change together, to mend a C that is there "
        "(start): those of all it does, or of what it does in an episode's first steps, see controller/directions.py",
        choices=("weights", "directions", "first_steps"),
        absent="weights",
    )
    search_first: int = setting(
        50, "for search first_steps: how many steps those are; as many after them are told apart, too", low=1, absent=50
    )
    privileged_noise: float = setting(
        0.0,
        "for features privileged: the standard deviation of noise in each number that C sees, in marks, so that it learns to do with what "
        "others can see",
        low=0,
        absent=0.0,
    )
    teacher: str = setting(
        "",
        "whose C, of features privileged, shows this one what to do before evolution begins: the directory of a run; empty for nobody's",
        absent="",
    )
    teacher_rounds: int = setting(
        4, "for a teacher: how often C plays, and is shown what the teacher would have done then", low=0, absent=4
    )
    teacher_episodes: int = setting(64, "for a teacher: episodes that C plays each time", low=1, absent=64)
    explore: float = setting(
        0.0,
        "random actions that take up to this share of an episode's time while C evolves in the real world, see extract.explore: so that it "
        "learns to come back, for instance to the road",
        low=0,
        high=0.95,
        absent=0.0,
    )

    @property
    def seed_groups(self) -> int:
        """Different sets of episodes in a generation: candidate i plays set i % seed_groups (original: 64 candidates, 32 seeds)."""
        return -(-self.population // (self.sharing or self.population))


@dataclass(frozen=True)
class ActorCritic:
    """C as an actor that learns in M's imagination, beside a critic (Dreamer, Hafner et al. 2020; DreamerV3), in the place of CMA-ES."""

    updates: int = setting(20000, "training steps", low=1, resumable=True)
    batch: int = setting(32, "recorded sequences in a training batch", low=1)
    window: int = setting(32, "frames in each of them", low=2)
    capacity: int = setting(
        2_000_000, "frames that are kept in memory to learn from, the newest: 150 to 300 bytes each, 12 kB if pixels are observed", low=2
    )
    horizon: int = setting(15, "steps that are imagined from each start", low=1)
    starts: int = setting(8, "imagination starts at the last so many frames of each recorded sequence", low=1)
    gamma: float = setting(0.997, "discount of each step", low=0, high=1)
    lam: float = setting(0.95, "lambda of the returns: 0 trusts the critic after one step, 1 only at the horizon", low=0, high=1)
    entropy: float = setting(3e-4, "weight of the actor's entropy", low=0)
    gradient: str = setting(
        "auto",
        "how the actor learns: from the log probability of what it did, or through M's dynamics; auto: through M where actions are numbers",
        choices=("auto", "reinforce", "dynamics"),
    )
    actor_rate: float = setting(2e-4, "Adam's learning rate for the actor", low=0)
    critic_rate: float = setting(2e-4, "Adam's learning rate for the critic", low=0)
    critic_first: int = setting(
        0,
        "training steps at the beginning in which the critic alone learns: for a C that goes on (controller.start) without the critic "
        "that it learned beside",
        low=0,
        absent=0,
    )
    average_rate: float = setting(
        1.0,
        "by this share the C that is scored and kept moves to the actor at each step: a running mean of it below 1, the actor itself at 1",
        low=0,
        high=1,
        absent=1.0,
    )
    drawn: bool = setting(True, "C draws its actions when it is scored and shown, too, as while it learned; else it takes the likeliest")
    grad_clip: float = setting(100.0, "the norm of the gradients of each of the two is clipped to this", low=0)
    hidden: int = setting(256, "units of the critic's two hidden layers", low=1)
    slow_rate: float = setting(0.02, "by this share the slow critic moves to the critic at each step", low=0, high=1)
    slow_weight: float = setting(1.0, "weight of the loss that keeps the critic near the slow one", low=0)
    replay_weight: float = setting(
        0.0, "weight of the critic's loss on what was really earned, beside that on dreams (DreamerV3: 0.3)", low=0, absent=0.0
    )
    xla: bool = setting(False, "compile the training step by XLA: it takes minutes more to start; on a CPU no step is faster for it")
    eval_every: int = setting(1000, "training steps between scorings of the actor", low=1, resumable=True)
    seed_episodes: int = setting(20, "recorded episodes to begin with, where the real world is played", low=1)
    round_episodes: int = setting(4, "episodes that the actor then plays between trainings", low=1)
    train_ratio: float = setting(32.0, "frames learned from for each frame played", low=0)
    near_ends: float = setting(
        0.0,
        "share of a batch's sequences that end shortly before an episode's end, or with it (a step limit is no such end): dreams "
        "then start where there is most to lose",
        low=0,
        high=1,
    )


@dataclass(frozen=True)
class Rounds:
    """What differs in the later rounds of the iterative procedure (paper 5), which the paper describes and did not run."""

    episodes: int = setting(600, "episodes that a later round records, played by the C of the round before", low=2)
    explore: float = setting(0.2, "random actions that are mixed in, see --extract-explore", low=0, high=0.95)
    vae: str = setting(
        "keep", "V: kept as it is, trained on, or trained afresh, on the episodes of all rounds", choices=("keep", "on", "afresh")
    )
    vae_steps: int = setting(2000, "steps of V, if it trains on", low=1)
    memory: str = setting("on", "M: trained on, or trained afresh, on the episodes of all rounds", choices=("on", "afresh"))
    memory_steps: int = setting(1600, "steps of M, if it trains on", low=1)
    memory_rate: float = setting(3e-4, "M's learning rate at the start of a round, if it trains on", low=0)
    controller: str = setting("on", "C: goes on from the C of the round before, or afresh", choices=("on", "afresh"))
    generations: int = setting(60, "generations of C, if it is evolved on", low=1)
    sigma: float = setting(0.05, "step size of CMA-ES at the start of a round, if C is evolved on", low=1e-12)
    updates: int = setting(5000, "training steps of an actor-critic in a round, if C learns on", low=1, absent=5000)
    held_out: int = setting(40, "episodes of the last C, from which no M learns, on which all rounds' M are scored", low=2)


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
    memory: str = setting("mdnrnn", "which M: the paper's MDN-RNN, or a recurrent state-space model", choices=MEMORIES)
    trainer: str = setting("cmaes", "who finds C: CMA-ES, or an actor-critic that learns in M's imagination", choices=TRAINERS)
    seed: int = setting(1, "seed of everything random", low=0, high=2**31 - 1)
    world: World = field(default_factory=World)
    extract: Extract = field(default_factory=Extract)
    vae: Vae = field(default_factory=Vae)
    rnn: Rnn = field(default_factory=Rnn)
    rssm: Rssm = field(default_factory=Rssm)
    controller: Controller = field(default_factory=Controller)
    actor_critic: ActorCritic = field(default_factory=ActorCritic)
    rounds: Rounds = field(default_factory=Rounds)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def of_memory(self) -> Rnn | Rssm:
        """The settings of the run's M."""
        return self.rssm if self.memory == "rssm" else self.rnn

    @property
    def memory_section(self) -> str:
        """The section that they are in."""
        return "rssm" if self.memory == "rssm" else "rnn"

    @property
    def sees_pixels(self) -> bool:
        """Whether M learns from frames, and V with it."""
        return self.memory == "rssm" and self.rssm.observations == "pixels"

    @property
    def learns_health(self) -> bool:
        """Whether M learns ends from the agent's health."""
        return self.memory == "rssm" and self.rssm.ends_from == "health"

    @property
    def learns_privileged(self) -> bool:
        """Whether M learns to tell what is privileged."""
        return self.of_memory.beta_privileged > 0

    @property
    def dream_steps(self) -> int:
        """M's steps in the longest dream."""
        return -(-self.controller.dream_steps // self.world.repeat)

    @property
    def dream_ends(self) -> bool:
        """Whether M knows that episodes end."""
        return self.memory == "rssm" or self.rnn.restart

    @property
    def is_papers(self) -> bool:
        """Whether memory and trainer are the paper's, so that its tables are to be compared with."""
        return (self.memory, self.trainer) == (MEMORIES[0], TRAINERS[0])

    def deciding(self, stage: str) -> dict[str, Any]:
        """The settings that decide a stage's result, as {section.field: value}; without those that came later and change nothing
        here, so that what was made before them counts as made with the same settings."""
        others, later = unused(self.memory, self.trainer), absent_settings()
        flat: dict[str, Any] = {"task": self.task, "seed": self.seed}
        if "rnn" in DEPENDS[stage]:
            flat["memory"] = self.memory
        if "controller" in DEPENDS[stage]:
            flat["trainer"] = self.trainer
        for section in DEPENDS[stage]:
            if section not in others:
                flat |= {f"{section}.{key}": value for key, value in dataclasses.asdict(getattr(self, section)).items()}
        return {key: value for key, value in flat.items() if later.get(key) != value}

    @property
    def evolution_seed(self) -> int:
        """The seed of CMA-ES and of the episodes that it compares candidates by."""
        if not self.controller.es_seed:
            return self.seed
        # Another one than that of any run by its own: --es-seed 1 of run 1 is no repetition.
        return int(np.random.SeedSequence((self.seed, self.controller.es_seed)).generate_state(1)[0]) >> 1

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, ready for JSON, without the sections of another memory or trainer than the run's."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in unused(self.memory, self.trainer)}

    @staticmethod
    def from_dict(data: dict[str, Any], where: str = "settings") -> Settings:
        """The inverse of `to_dict`. Raises UserError on unknown or missing keys; `where` names the source."""
        if not isinstance(data, dict):
            raise UserError(f"{where} holds no settings: restore it or start a new run")
        try:
            flat = {k: v for k, v in data.items() if k not in SECTIONS}
            others = unused(data["memory"], data["trainer"])
            # An actor-critic's earlier runs say nothing of rounds, which decide no stage; then they are those of the game, see `resolve`.
            others |= {"rounds"} - set(data) if data["trainer"] == "actor_critic" else set()
            sections = {name: cls() if name in others else _whole(cls, data[name], name) for name, cls in SECTIONS.items()}
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
        if self.world.steps() < 2:
            raise UserError(f"world.repeat is {self.world.repeat}: an episode of {self.world.max_steps} frames must have two steps or more")
        for name in ("vae", self.memory_section):
            if getattr(self, name).source and getattr(self, name).start:
                raise UserError(f"{name}.source takes weights as they are, {name}.start trains on from them: give one of the two")
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
        if (self.extract.agent or self.extract.explore) and self.extract.policy != "controller":
            raise UserError(f"extract.agent and extract.explore are those of extract.policy controller, but it is {self.extract.policy}")
        if self.extract.policy == "mirrored" and not self.extract.pool:
            raise UserError("extract.policy is mirrored, which needs episodes of another run: give --extract-pool")
        if self.controller.curiosity and self.controller.world == "dream":
            raise UserError("controller.curiosity is for the real world: in its own dream nothing surprises M; take 0, or world real")
        c = self.controller
        if c.explore and c.world == "dream":
            raise UserError("controller.explore mixes random actions into the real world: in dreams leave it at 0, or take world real")
        if self.trainer == "cmaes" and (c.search != "weights" or c.teacher):
            self.check_linear(c)
        if c.features == "privileged" and (c.world != "real" or c.curiosity or self.trainer != "cmaes"):
            raise UserError("controller.features is privileged, which the real world tells and no M: take CMA-ES, world real, no curiosity")
        if self.memory == "rssm" and self.controller.features not in ("z", "zh"):
            raise UserError(f"controller.features is {self.controller.features}, but an RSSM has no c: take z (its stochastic state) or zh")
        if self.rssm.capacity < self.rssm.window:
            raise UserError(f"rssm.capacity is {self.rssm.capacity}: it must hold at least rssm.window, {self.rssm.window} frames")
        ac = self.actor_critic
        if ac.starts > ac.window:
            raise UserError(f"actor_critic.starts is {ac.starts}: a sequence has no more than actor_critic.window, {ac.window} frames")
        if ac.capacity < ac.window:
            raise UserError(f"actor_critic.capacity is {ac.capacity}: it must hold at least actor_critic.window, {ac.window} frames")
        if self.trainer == "actor_critic" and self.controller.device == "gpu":
            raise UserError("controller.device is that of CMA-ES's dreams, an actor-critic takes a GPU by itself: take cpu")

    @staticmethod
    def check_linear(c: Controller) -> None:
        """Raise UserError when C has no start, or two, or is not linear, for what takes a linear C to begin with."""
        if c.search != "weights" and (not (c.start or c.teacher) or c.hidden or not c.bias):
            raise UserError(f"controller.search is {c.search}, which takes a linear C with a bias to begin with: give --controller-start")
        if c.teacher and (c.hidden or not c.bias):
            raise UserError("controller.teacher shows a linear C with a bias what to do: leave controller.hidden and controller.bias alone")
        if c.teacher and (c.start or c.world != "real" or c.features == "privileged"):
            raise UserError("controller.teacher shows a C of the real world what to do: take no controller.start beside it, and world real")

    def check_dreams(self, step_reward: float) -> None:
        """Raise UserError when these settings ask for a score in dreams, which this game's M cannot give.

        Args:
            step_reward: what the game pays for each step, if it pays for nothing else (env/tasks.py); 0 where it does not.
        """
        if self.memory == "rssm":
            return  # it has a reward and an end of its own
        if self.trainer == "actor_critic" and not (step_reward and self.rnn.restart):
            raise UserError(
                "trainer is actor_critic, which learns in dreams, but this M dreams of no reward or no end: take --memory rssm, "
                "or a task and rnn.restart that have them"
            )
        if self.controller.world == "dream" and not (step_reward and self.rnn.restart):
            raise UserError(
                "controller.world is dream, but this M dreams of no reward or no end: take real, --memory rssm, or a task and "
                "rnn.restart that have them"
            )
        if self.evaluate.dream_episodes and not step_reward:
            raise UserError("evaluate.dream_episodes is not 0, but this M dreams of no reward: there is no score in its dreams")

    def check_told(self, health: bool, privileged: int) -> None:
        """Raise UserError when M or V would learn from what the game does not tell.

        Args:
            health, privileged: what it tells of (env/tasks.py).
        """
        if self.learns_health and not health:
            raise UserError(f"rssm.ends_from is health, but {self.task} tells of none (Task.health): take --rssm-ends-from deaths")
        for name in ("vae", "rnn", "rssm"):
            beta = getattr(self, name).beta_privileged
            if beta and not privileged:
                what = f"{name}.beta_privileged is not 0, but {self.task} tells nothing privileged (Task.privileged)"
                raise UserError(f"{what}: leave it at 0")
        if (self.controller.features == "privileged" or self.controller.teacher) and not privileged:
            raise UserError(f"a teacher sees what is privileged, but {self.task} tells nothing of that kind (Task.privileged): do without")

    def check_ends(self) -> None:
        """Raise UserError when an RSSM would learn its ends from recordings that go on after them."""
        if self.memory == "rssm" and self.extract.past_done:
            raise UserError("extract.past_done: what comes after an episode's end teaches M a wrong end: take --extract-past-done no")

    def check_together(self) -> None:
        """Raise UserError when stages contradict each other, which a whole run would find out only hours later."""
        longest = self.world.steps()
        if self.controller.features == "privileged":
            raise UserError("controller.features is privileged, for which no V and M are needed: evolve it by controller/train.py alone")
        if self.extract.min_frames > self.world.max_steps:
            raise UserError(f"extract.min_frames is {self.extract.min_frames}: no episode is longer than {self.world.max_steps} frames")
        # How much is pooled is known when it is there.
        frames = float("inf") if self.extract.pool else self.extract.episodes * longest
        if self.vae.batch > frames and not self.vae.source:
            raise UserError(f"vae.batch is {self.vae.batch}, but there are {frames} frames at most: lower it")
        if self.memory == "rssm" or self.trainer == "actor_critic":
            self.check_ends()
            for name, window in (("rssm", self.rssm.window), ("actor_critic", self.actor_critic.window)):
                if window > frames:
                    raise UserError(f"{name}.window is {window}, but {frames} frames are recorded at most: lower it, or record more")
        if self.memory == "rssm" or self.rnn.source:  # an M that is taken as it is learns from no sequences
            return
        if self.rnn.sequences == "stream":
            if self.rnn.batch * self.rnn.window > frames:
                raise UserError(
                    f"rnn.batch x rnn.window is {self.rnn.batch} x {self.rnn.window}, but there are {frames} frames at most: "
                    "lower them, or record more"
                )
            return
        if self.rnn.window > longest:
            raise UserError(f"rnn.window is {self.rnn.window}: no episode is longer than {longest} steps")
        if not self.rnn.window and not self.extract.past_done:
            raise UserError("rnn.window is 0 (whole episodes), which needs episodes of one length: give a window or extract.past_done")
        if self.rnn.batch > self.extract.episodes and not self.extract.pool:
            raise UserError(f"rnn.batch is {self.rnn.batch}: it must be at most extract.episodes, {self.extract.episodes}")


def unused(memory: str, trainer: str) -> set[str]:
    """The sections that mean nothing to a run with this memory and this trainer."""
    others = {"rnn" if memory == "rssm" else "rssm"}
    return others | (set() if trainer == "actor_critic" else {"actor_critic"})


def unused_flags(memory: str, trainer: str, section: str) -> set[str]:
    """The fields of a section that mean nothing to a run with this memory and this trainer."""
    if section in unused(memory, trainer):
        return {f.name for f in dataclasses.fields(SECTIONS[section])}
    if section == "rounds":
        return {"generations", "sigma"} if trainer == "actor_critic" else {"updates"}
    return set(EVOLUTIONS) if (trainer, section) == ("actor_critic", "controller") else set()


def absent_settings() -> dict[str, Any]:
    """The settings that came later than others, as {section.field: what runs did before}."""
    fields = ((f"{name}.{f.name}", f.metadata["absent"]) for name, cls in SECTIONS.items() for f in dataclasses.fields(cls))
    return {key: before for key, before in fields if before is not None}


def _whole(cls: type, data: dict[str, Any], name: str) -> Any:
    """A `cls` of the values `data`. Raises KeyError when one is missing: it must not silently become the paper's for CarRacing."""
    data = {f.name: f.metadata["absent"] for f in dataclasses.fields(cls) if f.metadata.get("absent") is not None} | data
    for f in dataclasses.fields(cls):
        if f.name not in data:
            raise KeyError(f"{name}.{f.name} is missing" if name else f"{f.name} is missing")
    # A file edited by hand may say 1 for 1.0: to JSON these are two values, to a stage's identity they must not be.
    numbers = {f.name for f in dataclasses.fields(cls) if f.type == "float"}
    return cls(**{key: float(value) if key in numbers and type(value) is int else value for key, value in data.items()})


SECTIONS: dict[str, type] = {
    "world": World,
    "extract": Extract,
    "vae": Vae,
    "rnn": Rnn,
    "rssm": Rssm,
    "controller": Controller,
    "actor_critic": ActorCritic,
    "rounds": Rounds,
    "evaluate": Evaluate,
}

# Sections that a stage's command has beside its own.
BESIDE: dict[str, tuple[str, ...]] = {"rnn": ("rssm",), "controller": ("actor_critic",)}

# Which sections decide a stage's result: its own and those of what it is made from. (Those of a memory or a trainer only where it is
# the run's, see `Settings.sections`.)
DEPENDS: dict[str, tuple[str, ...]] = {
    "extract": ("world", "extract"),
    "vae": ("world", "extract", "vae"),
    "encode": ("world", "extract", "vae"),
    "rnn": ("world", "extract", "vae", "rnn", "rssm"),
    "controller": ("world", "extract", "vae", "rnn", "rssm", "controller", "actor_critic"),
    "evaluate": ("world", "extract", "vae", "rnn", "rssm", "controller", "actor_critic", "evaluate"),
}


def load_settings(path: Path) -> Settings:
    """Read a settings.json. Raises UserError when it is missing or does not fit."""
    try:
        data = read_json(path)
    except UserError as error:
        advice = "restore it or start a new run" if path.exists() else f"is '{path.parent}' a run directory?"
        raise UserError(f"{error}: {advice}") from None
    return Settings.from_dict(data, str(path))
