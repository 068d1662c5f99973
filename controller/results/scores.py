"""What is made of an agent's returns: mean, standard deviation, a confidence interval, and the paper's row beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from controller.results.paper import SCORES, Published


def bootstrap_interval(returns: np.ndarray, level: float = 0.95, resamples: int = 10000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, from a fixed seed, so that the same returns give the same interval."""
    rng = np.random.default_rng(0)
    means = np.array([rng.choice(returns, len(returns)).mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(returns: np.ndarray, lengths: np.ndarray, seeds: np.ndarray) -> dict[str, Any]:
    """The JSON of a scoring: every return, and their mean, population standard deviation (as the paper's) and interval."""
    return {
        "episodes": len(returns),
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "ci95": list(bootstrap_interval(returns)),
        "min": float(np.min(returns)),
        "max": float(np.max(returns)),
        "returns": [float(value) for value in returns],
        "lengths": [int(value) for value in lengths],
        "seeds": [int(value) for value in seeds],
    }


def mean_and_std(scores: dict[str, Any]) -> str:
    """'842.4 ± 94.0' of a scoring by `summarise`."""
    return f"{scores['mean']:.1f} ± {scores['std']:.1f}"


def scorings(rows: list[dict[str, Any]], step: str) -> dict[int, float]:
    """The scores of a log by the step at which they were made, 0 for the C that the training began with."""
    return {0: row["start"] for row in rows[:1] if "start" in row} | {row[step]: row["eval"] for row in rows if "eval" in row}


def otherwise(repeat: int, latents: str) -> str:
    """What is to be said where an agent acts or sees otherwise than the paper's: ', actions held for 4 frames, V's mean seen in play'.

    Args:
        repeat, latents: the settings world.repeat and controller.latents.
    """
    held = f", actions held for {repeat} frames" if repeat > 1 else ""
    return held + (f", V's {latents} seen in play" if latents != "sampled" else "")


def score_table(title: str, task: str, row: Published | None, scores: dict[str, Any]) -> str:
    """A Markdown table: ours, and all published scores of the task, the comparable one in bold; with a column for dreams
    where the paper has them."""
    (low, high), title = scores["ci95"], title + otherwise(scores.get("repeat", 1), scores.get("latents", "sampled"))
    published = SCORES.get(task, ())
    dreams = bool(scores.get("dream")) or any(other.dream for other in published)
    dream = f" {mean_and_std(scores['dream']) if scores.get('dream') else ''} |" if dreams else ""
    lines = [
        "| agent |" + (" dream score |" if dreams else "") + " score (mean ± std) | 95% interval of the mean | episodes | source |",
        "|---|---|---|---|---|" + ("---|" if dreams else ""),
        f"| **{title}** |{dream} **{mean_and_std(scores)}** | {low:.1f} .. {high:.1f} | {scores['episodes']} | this run |",
    ]
    for other in published:
        mark = "**" if other == row else ""
        dream = f" {f'{other.dream[0]:g} ± {other.dream[1]:g}' if other.dream else ''} |" if dreams else ""
        lines.append(f"| {mark}{other.method}{mark} |{dream} {mark}{other.mean:g} ± {other.std:g}{mark} | | 100 | {other.source} |")
    return "\n".join(lines)
