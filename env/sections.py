"""Every setting of every stage, with its meaning, and with the paper's value for CarRacing as its default.

Where the paper is silent, the default is that of the authors' released code. env/tasks.py says where the other task and the
smaller scales differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from env.settings import setting


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
    seed_groups: int = setting(32, "candidates i and i + seed_groups play the same episodes (original: 64 candidates, 32 seeds)", low=1)
    sigma: float = setting(0.1, "initial step size sigma0 of CMA-ES", low=1e-12)
    l2: float = setting(0.01, "weight decay: the fitness loses l2 * mean(w^2)", low=0)
    generations: int = setting(1800, "generations to evolve", low=1, resumable=True)
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


@dataclass(frozen=True)
class Evaluate:
    """Scoring the agent (paper 3.2: 100 episodes)."""

    episodes: int = setting(100, "episodes to play", low=1, resumable=True)
    render: str = setting("official", "who draws the frames that the agent sees, see --render of training", choices=("fast", "official"))
    dream_episodes: int = setting(0, "episodes to play in M's dream as well, at the temperature of training", low=0, resumable=True)
