"""The published figures, each with its source: what ours stand beside."""

from __future__ import annotations

from dataclasses import dataclass

from env.run.settings import Settings


@dataclass(frozen=True)
class Published:
    """A score over 100 episodes, mean and standard deviation.

    Attributes:
        method, source: what was scored, and where that is published.
        features, hidden, temperature: the settings of C that it belongs to; features is None where there is no C of ours
            to compare, temperature None where C was not evolved in dreams.
        dream: its score in the dream that it was trained in, where there is one.
    """

    method: str
    mean: float
    std: float
    source: str
    features: str | None = None
    hidden: int = 0
    temperature: float | None = None
    dream: tuple[float, float] | None = None


RANDOM = "Random policy"
_RACING = "Ha & Schmidhuber 2018, table in section 3.3"
_DOOM = "Ha & Schmidhuber 2018, table in section 4.4"


def _at(temperature: float, dream: tuple[float, float], actual: tuple[float, float]) -> Published:
    return Published(f"Full world model, tau {temperature:.2f}", *actual, _DOOM, "zch", 0, temperature, dream)


SCORES: dict[str, tuple[Published, ...]] = {
    "carracing": (
        Published("DQN", 343, 18, _RACING),
        Published("A3C (continuous)", 591, 45, _RACING),
        Published("A3C (discrete)", 652, 10, _RACING),
        Published("ceobillionaire (gym leaderboard)", 838, 11, _RACING),
        Published("V model only, z", 632, 251, _RACING, "z"),
        Published("V model only, z, with a hidden layer", 788, 141, _RACING, "z", 40),
        Published("Full world model, z and h", 906, 21, _RACING, "zh"),
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
        6: (92, -67, 483, None),
        11: (281, -19, 612, None),
        16: (512, 32, 779, None),
        21: (616, 237, 807, None),
        25: (668, 350, 846, 822.9),
        31: (704, 334, 856, None),
        41: (753, 346, 874, None),
        50: (767, 552, 870, 867.5),
        51: (754, 405, 871, None),
        75: (767, 479, 879, 869.9),
        100: (799, 494, 868, 867.0),
        125: (812, 691, 874, 869.1),
        150: (822, 720, 889, 875.5),
        175: (829, 729, 895, 874.8),
        200: (823, 673, 897, 880.4),
        250: (839, 678, 902, 876.1),
        300: (844, 609, 899, 883.2),
        350: (858, 735, 895, 883.0),
        400: (850, 698, 896, 883.5),
        500: (864, 645, 900, 890.6),
        600: (864, 752, 905, 890.7),
        700: (880, 769, 907, 891.6),
        800: (880, 825, 909, 894.7),
        900: (883, 811, 909, 892.0),
        1000: (882, 839, 905, 892.2),
        1200: (885, 826, 912, 893.6),
        1400: (888, 810, 910, 896.7),
        1600: (896, 866, 913, 896.8),
        1800: (890, 814, 911, 900.5),
    },
    "doom": {
        1: (305, 145, 466, None),
        6: (347, 225, 612, None),
        11: (365, 257, 582, None),
        16: (403, 218, 640, None),
        21: (456, 173, 746, None),
        25: (476, 238, 876, 701.4),
        31: (609, 309, 1011, None),
        41: (638, 333, 991, None),
        50: (686, 431, 1020, 701.0),
        51: (656, 317, 994, None),
        75: (663, 377, 1040, 741.8),
        100: (698, 329, 1064, 791.5),
        125: (739, 365, 1397, 753.7),
        150: (703, 218, 961, 815.3),
        175: (705, 477, 1063, 778.6),
        200: (769, 492, 1111, 789.6),
        250: (785, 388, 1244, 776.6),
        300: (744, 520, 1019, 810.1),
        350: (766, 487, 1191, 844.3),
        400: (758, 381, 1084, 813.3),
        500: (831, 425, 1240, 840.6),
        600: (840, 338, 1225, 842.9),
        700: (837, 468, 1142, 862.7),
        800: (836, 536, 1278, 860.5),
        900: (852, 447, 1195, 879.3),
        1000: (872, 586, 1192, 905.6),
        1200: (860, 515, 1296, 884.7),
        1400: (848, 448, 1222, 884.6),
        1600: (883, 647, 1203, 892.8),
        1800: (897, 530, 1278, 891.4),
    },
}

# Under which settings.
ORIGINAL_EVOLUTION = {"carracing": "64 x 16 episodes", "doom": "64 x 16 dreams at temperature 1.25"}

# What C saw in it.
ORIGINAL_FEATURES = {"carracing": "zh", "doom": "zch"}

# Core-hours of its 1,800 generations on 64 cores, by the time column of their logs.
ORIGINAL_CORE_HOURS = {"carracing": 71_600, "doom": 3_470}

# How near to a published mean counts as reproduced: less than from the full model's to the paper's next row (13% and 20%).
MARGIN = {"carracing": 0.1, "doom": 0.2}

# Parameters of V, M and C (paper, appendix A; the full model's C).
PARAMETERS: dict[str, dict[str, int]] = {
    "carracing": {"vae": 4_348_547, "rnn": 422_368, "controller": 867},
    "doom": {"vae": 4_446_915, "rnn": 1_678_785, "controller": 1_088},
}

# The authors' training logs, where they are published (doomrnn/trainlog), each row of which is of one batch: stage -> step ->
# term of the loss -> its mean over their rows within NEAR of that step, and the standard deviation between these batches,
# None where there are fewer than three. V's have a row for every 500 batches, M's for every 20.
NEAR = 0.2
Original = dict[int, dict[str, tuple[float, float | None]]]
ORIGINAL_TRAINING: dict[str, dict[str, Original]] = {
    "doom": {
        "vae": {
            500: {"loss": (63.97, None), "reconstruction": (31.94, None), "kl": (32.02, None)},
            1000: {"loss": (60.12, None), "reconstruction": (27.74, None), "kl": (32.38, None)},
            2000: {"loss": (47.99, None), "reconstruction": (15.93, None), "kl": (32.06, None)},
            5000: {"loss": (44.59, 4.24), "reconstruction": (12.52, 4.17), "kl": (32.06, 0.08)},
            8000: {"loss": (42.84, 3.07), "reconstruction": (10.78, 3.07), "kl": (32.06, 0.03)},
            10000: {"loss": (41.22, 1.47), "reconstruction": (9.17, 1.45), "kl": (32.05, 0.03)},
            15000: {"loss": (41.01, 1.31), "reconstruction": (8.98, 1.30), "kl": (32.03, 0.02)},
            20000: {"loss": (39.95, 1.59), "reconstruction": (7.92, 1.58), "kl": (32.03, 0.03)},
            30000: {"loss": (38.77, 1.13), "reconstruction": (6.73, 1.08), "kl": (32.03, 0.06)},
            50000: {"loss": (37.57, 0.98), "reconstruction": (5.54, 0.95), "kl": (32.03, 0.04)},
            100000: {"loss": (36.90, 1.15), "reconstruction": (4.87, 1.13), "kl": (32.03, 0.03)},
            200000: {"loss": (36.19, 0.95), "reconstruction": (4.16, 0.93), "kl": (32.03, 0.03)},
            308000: {"loss": (35.91, 0.89), "reconstruction": (3.88, 0.86), "kl": (32.03, 0.04)},
        },
        "rnn": {
            20: {"loss": (1.426, None), "z": (1.314, None), "restart": (0.1123, None)},
            100: {"loss": (1.205, 0.026), "z": (1.124, 0.018), "restart": (0.0814, 0.0077)},
            200: {"loss": (1.157, 0.010), "z": (1.087, 0.007), "restart": (0.0706, 0.0035)},
            500: {"loss": (1.106, 0.006), "z": (1.059, 0.003), "restart": (0.0471, 0.0043)},
            1000: {"loss": (1.082, 0.007), "z": (1.045, 0.003), "restart": (0.0369, 0.0051)},
            2000: {"loss": (1.054, 0.006), "z": (1.033, 0.003), "restart": (0.0210, 0.0044)},
            3000: {"loss": (1.038, 0.005), "z": (1.026, 0.003), "restart": (0.0123, 0.0026)},
            4000: {"loss": (1.029, 0.004), "z": (1.020, 0.003), "restart": (0.0085, 0.0017)},
            5000: {"loss": (1.022, 0.004), "z": (1.016, 0.003), "restart": (0.0065, 0.0014)},
            7000: {"loss": (1.013, 0.004), "z": (1.009, 0.003), "restart": (0.0044, 0.0012)},
            8000: {"loss": (1.009, 0.004), "z": (1.006, 0.003), "restart": (0.0039, 0.0011)},
            10000: {"loss": (1.004, 0.004), "z": (1.001, 0.003), "restart": (0.0033, 0.0015)},
            15000: {"loss": (0.994, 0.004), "z": (0.992, 0.003), "restart": (0.0023, 0.0011)},
            20000: {"loss": (0.987, 0.003), "z": (0.985, 0.003), "restart": (0.0018, 0.0010)},
            24380: {"loss": (0.985, 0.002), "z": (0.983, 0.002), "restart": (0.0016, 0.0010)},
        },
    },
}


def saw_the_same(task: str, settings: Settings) -> bool:
    """Whether a C of these settings saw what that of the authors' published evolution did: only such curves are to be compared."""
    c = settings.controller
    return settings.is_papers and (c.features, c.hidden) == (ORIGINAL_FEATURES.get(task), 0)


def row_for(task: str, settings: Settings | None) -> Published | None:
    """The paper's row that a C of these settings is to be compared with, the full model's where the paper has none; for a policy
    without skill (settings = None) the random one. None where there is none, as for games or systems that are not the paper's."""
    if settings is None:
        return next((row for row in SCORES.get(task, ()) if row.method == RANDOM), None)
    if not settings.is_papers:
        return None
    c, rows = settings.controller, SCORES.get(task, ())
    wanted = (c.features, c.hidden, c.temperature if c.world == "dream" else None)
    full = rows[-1] if rows else None
    return next((row for row in rows if (row.features, row.hidden, row.temperature) == wanted), full)
