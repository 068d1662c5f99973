"""The published figures, each with its source: what ours stand beside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A score over 100 episodes, mean and standard deviation."""

    method: str
    mean: float
    std: float
    source: str


_TABLE = "Ha & Schmidhuber 2018, table in section 3.3"

SCORES: dict[str, tuple[Published, ...]] = {
    "carracing": (
        Published("DQN", 343, 18, _TABLE),
        Published("A3C (continuous)", 591, 45, _TABLE),
        Published("A3C (discrete)", 652, 10, _TABLE),
        Published("ceobillionaire (gym leaderboard)", 838, 11, _TABLE),
        Published("V model only, z", 632, 251, _TABLE),
        Published("V model only, z, with a hidden layer", 788, 141, _TABLE),
        Published("Full world model, z and h", 906, 21, _TABLE),
    ),
}

# What the settings of C (features, hidden layer) correspond to in the table.
ROWS: dict[tuple[str, bool], str] = {
    ("z", False): "V model only, z",
    ("z", True): "V model only, z, with a hidden layer",
    ("zh", False): "Full world model, z and h",
}

# The authors' own evolution (carracing/log, *.hist.json and *.hist_best.json in their repository): generation ->
# (mean, min, max of the population's fitness, 1024-episode score of the mean solution or None).
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
}


def row_for(task: str, features: str, hidden: int) -> Published:
    """The paper's row that a C of these features is to be compared with; the full model's where the paper has none."""
    name = ROWS.get((features, hidden > 0), "Full world model, z and h")
    return next(row for row in SCORES[task] if row.method == name)
