"""The published figures, each with its source: what ours stand beside."""

from __future__ import annotations

from dataclasses import dataclass

from env.run.settings import Controller


@dataclass(frozen=True)
class Published:
    """A score over 100 episodes, mean and standard deviation.

    Attributes:
        method, source: what was scored, and where that is published.
        features, hidden, temperature: the settings of C that it belongs to; None where it has none, or takes any.
        dream: its score in the dream that it was trained in, where there is one.
    """

    method: str
    mean: float
    std: float
    source: str
    features: str | None = None
    hidden: bool | None = None
    temperature: float | None = None
    dream: tuple[float, float] | None = None


RANDOM = "Random policy"
_RACING = "Ha & Schmidhuber 2018, table in section 3.3"
_DOOM = "Ha & Schmidhuber 2018, table in section 4.4"


def _at(temperature: float, dream: tuple[float, float], actual: tuple[float, float]) -> Published:
    return Published(f"Full world model, tau {temperature:.2f}", *actual, _DOOM, "zch", False, temperature, dream)


SCORES: dict[str, tuple[Published, ...]] = {
    "carracing": (
        Published("DQN", 343, 18, _RACING),
        Published("A3C (continuous)", 591, 45, _RACING),
        Published("A3C (discrete)", 652, 10, _RACING),
        Published("ceobillionaire (gym leaderboard)", 838, 11, _RACING),
        Published("V model only, z", 632, 251, _RACING, "z", False),
        Published("V model only, z, with a hidden layer", 788, 141, _RACING, "z", True),
        Published("Full world model, z and h", 906, 21, _RACING, "zh", False),
    ),
    "doom": (
        Published(RANDOM, 210, 108, _DOOM),
        Published("Gym leader", 820, 58, _DOOM),
        _at(0.10, (2086, 140), (193, 58)),
        _at(0.50, (2060, 277), (196, 50)),
        _at(1.00, (1145, 690), (868, 511)),
        _at(1.30, (732, 269), (753, 139)),
        _at(1.15, (918, 546), (1092, 556)),
    ),
}

# The authors' own evolution (log/*.hist.json and *.hist_best.json in their repository): generation -> (mean, min, max of
# the population's fitness, 1024-episode score of the mean solution or None). Doom's is in dreams at temperature 1.25.
ORIGINAL_CURVE: dict[str, dict[int, tuple[float, float, float, float | None]]] = {
    "carracing": {
        1: (-55, -82, 35, None),
        11: (281, -19, 612, None),
        21: (616, 237, 807, None),
        25: (668, 350, 846, 822.9),
        51: (754, 405, 871, None),
        100: (799, 494, 868, 867.0),
        200: (823, 673, 897, 880.4),
        500: (864, 645, 900, 890.6),
        1000: (882, 839, 905, 892.2),
        1800: (890, 814, 911, 900.5),
    },
    "doom": {
        1: (305, 145, 466, None),
        11: (365, 257, 582, None),
        21: (456, 173, 746, None),
        25: (476, 238, 877, 701.4),
        51: (656, 317, 994, None),
        100: (698, 329, 1064, 791.5),
        200: (769, 492, 1111, 789.6),
        500: (831, 425, 1240, 840.6),
        1000: (872, 586, 1192, 905.6),
        1800: (897, 530, 1278, 891.4),
    },
}

# Under which settings.
ORIGINAL_EVOLUTION = {"carracing": "64 x 16 episodes", "doom": "64 x 16 dreams at temperature 1.25"}

# The authors' training logs, where they are published (doomrnn/trainlog): stage -> step -> terms of the loss of that batch.
ORIGINAL_TRAINING: dict[str, dict[str, dict[int, dict[str, float]]]] = {
    "doom": {
        "vae": {
            500: {"loss": 63.97, "reconstruction": 31.94, "kl": 32.02},
            1000: {"loss": 60.12, "reconstruction": 27.74, "kl": 32.38},
            2000: {"loss": 47.99, "reconstruction": 15.93, "kl": 32.06},
            5000: {"loss": 40.33, "reconstruction": 8.33, "kl": 32.00},
            8000: {"loss": 40.09, "reconstruction": 8.01, "kl": 32.08},
            10000: {"loss": 40.12, "reconstruction": 8.07, "kl": 32.05},
        },
        "rnn": {
            20: {"loss": 1.426, "z": 1.314, "restart": 0.112},
            100: {"loss": 1.195, "z": 1.118, "restart": 0.078},
            200: {"loss": 1.149, "z": 1.082, "restart": 0.067},
            500: {"loss": 1.106, "z": 1.059, "restart": 0.046},
            1000: {"loss": 1.087, "z": 1.047, "restart": 0.041},
            2000: {"loss": 1.056, "z": 1.034, "restart": 0.022},
            5000: {"loss": 1.023, "z": 1.016, "restart": 0.007},
            10000: {"loss": 1.006, "z": 1.001, "restart": 0.005},
            24400: {"loss": 0.982, "z": 0.981, "restart": 0.001},
        },
    },
}


def row_for(task: str, c: Controller | None) -> Published | None:
    """The paper's row that a C of these settings is to be compared with, the full model's where the paper has none; for a policy
    without skill (c = None) the random one. None where there is none, as for games that are not the paper's."""
    if c is None:
        return next((row for row in SCORES.get(task, ()) if row.method == RANDOM), None)
    for row in SCORES.get(task, ()):
        if (row.features, row.hidden) == (c.features, c.hidden > 0) and row.temperature in (None, c.temperature):
            return row
    return SCORES[task][-1] if task in SCORES else None
