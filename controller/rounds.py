"""The iterative procedure (paper 5): the world is played by the last round's C, M learns from what happened, C is evolved in it, and again.

    RUN                     round 1: the paper's procedure, from random play
    RUN/rounds/2            a run of its own: its recordings are played by the C of RUN, and RUN's are pooled with them
    RUN/rounds/3            and so on, each from the round before
    RUN/rounds/held-out-3   episodes of round 3's C, from which no M learned
    RUN/rounds/rounds.md, rounds.png, rounds.json   all rounds beside each other

The paper describes the procedure and did not run it. What a later round does otherwise than the first is in the settings of `rounds`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from controller.results.pictures import save_figure
from controller.results.scores import mean_and_std
from controller.results.tables import Table
from env.run.errors import UserError
from env.run.files import read_json, read_jsonl, write_atomic, write_json
from env.run.settings import Settings
from env.run.weights import ROUNDS, fingerprint, fingerprints, model_paths
from env.tasks import Task

HELD_OUT = "held-out"
HELD_OUT_SEED = 1_000_000  # added to the run's
SURPRISE = "surprise.json"  # figures of a round's M on the next round's recordings


def plan_rounds(run: Path, settings: Settings, count: int) -> list[tuple[Path, Settings]]:
    """The directory and the settings of each round, the first included.

    Args:
        run, settings: those of round 1.
        count: how many rounds.

    Raises:
        UserError: there is no second round for this trainer, or fewer than two are asked for.
    """
    if count < 2:
        raise UserError(f"--rounds is {count}: round 1 is the run without the flag, give at least 2")
    check_rounds(settings)
    plan = [(run, settings)]
    for number in range(2, count + 1):
        plan.append((run / ROUNDS / str(number), next_round(number, *plan[-1], settings)))
        plan[-1][1].check()
    return plan


def check_rounds(settings: Settings) -> None:
    """Raise UserError when there is no later round for these settings."""
    if settings.sees_pixels:
        raise UserError("--rounds keep V and M apart, but rssm.observations is pixels: take latents")
    if settings.trainer == "actor_critic" and settings.controller.world == "real":
        raise UserError(
            "an actor-critic in turns with the world plays and learns in rounds by itself: leave out --rounds, or take "
            "--controller-world dream"
        )


def next_round(number: int, before: Path, its: Settings, first: Settings) -> Settings:
    """The settings of a later round.

    Args:
        number: its number.
        before, its: the directory and the settings of the one before.
        first: those of round 1, which hold for what is trained afresh.
    """
    rounds, path = first.rounds, str(before)
    played = replace(
        its.extract, episodes=rounds.episodes, policy="controller", agent=path, explore=rounds.explore, pool=path, min_frames=1
    )
    vae = {
        "keep": replace(first.vae, source=path, start=""),
        # As many passes over the episodes as the steps take.
        "on": replace(first.vae, source="", start=path, limit_steps=rounds.vae_steps, epochs=max(first.vae.epochs, 1000)),
        "afresh": replace(first.vae, source="", start=""),
    }[rounds.vae]
    memory = replace(first.of_memory, source="", start="")
    if rounds.memory == "on":
        slowest = {"min_learning_rate": min(first.rnn.min_learning_rate, rounds.memory_rate)} if its.memory_section == "rnn" else {}
        memory = replace(memory, start=path, steps=rounds.memory_steps, learning_rate=rounds.memory_rate, **slowest)
    # Other candidates, in other episodes; other batches and other dreams.
    c, actor_critic = replace(first.controller, start="", es_seed=first.controller.es_seed + number), first.actor_critic
    if rounds.controller == "on":
        c = replace(c, start=path)
        if first.trainer == "actor_critic":
            actor_critic = replace(actor_critic, updates=rounds.updates, critic_first=0)  # its critic goes on with it
        else:
            c = replace(c, generations=rounds.generations, sigma=rounds.sigma)
    return replace(first, extract=played, vae=vae, controller=c, actor_critic=actor_critic, **{first.memory_section: memory})


def held_out_run(plan: list[tuple[Path, Settings]]) -> tuple[Path, Settings]:
    """The run that holds the held-out episodes: whole games of the last C, without exploration, on seeds of their own."""
    (run, first), (last, its) = plan[0], plan[-1]
    extract = replace(its.extract, episodes=first.rounds.held_out, agent=str(last), explore=0.0, pool="")
    return run / ROUNDS / f"{HELD_OUT}-{len(plan)}", replace(its, seed=(first.seed + HELD_OUT_SEED) % 2**31, extract=extract)


def figures_wanted(task: Task, plan: list[tuple[Path, Settings]], held_out: Path) -> list[tuple[Path, Path, Path]]:
    """What rnn/evaluate.py is still to be asked: a round's directory, recordings, and the file for the answer. Each M on the recordings
    of the round after it, which it has not seen; and all of them on the held-out ones."""
    most = plan[0][1].rounds.held_out
    wanted = [(run, later, run / "report" / SURPRISE, min(most, its.extract.episodes)) for (run, _), (later, its) in zip(plan, plan[1:])]
    wanted += [(run, held_out, run / "report" / f"{held_out.name}.json", most) for run, _ in plan]
    return [(run, recordings, target) for run, recordings, target, count in wanted if not _answered(task, run, recordings, target, count)]


def _answered(task: Task, run: Path, recordings: Path, target: Path, episodes: int) -> bool:
    """Whether the file holds figures of the round's present V and M, on so many of the present recordings."""
    figures = _read(target)
    same = figures.get("recordings") == fingerprint(recordings / "extract" / "log.jsonl") and figures["episodes"] == episodes
    return same and figures["fingerprints"] == fingerprints(model_paths(task.name, run))


def summary_of(number: int, run: Path, held_out: str) -> dict[str, Any]:
    """A round's figures, for the table: those that are there.

    Args:
        number, run: its number and directory.
        held_out: the name of the held-out recordings.
    """
    scores = _read(run / "evaluate" / "scores.json", sealed=True)
    recorded = read_jsonl(run / "extract" / "log.jsonl")
    own = [row for row in recorded if not row.get("pooled")]
    found: dict[str, Any] = {
        "round": number,
        "run": str(run),
        "episodes": len(own),
        "frames": sum(row["length"] for row in own),
        "learned_frames": sum(row["length"] for row in recorded),
        "recorded_score": sum(row["score"] for row in own) / len(own),
        "game": {key: scores[key] for key in ("mean", "std", "ci95", "episodes")} if scores else None,
        "dream": {key: scores["dream"][key] for key in ("mean", "std", "episodes")} if scores.get("dream") else None,
    }
    for name, file in (("surprise", SURPRISE), ("skilled", f"{held_out}.json")):
        figures = _read(run / "report" / file)
        kept = ["loss", "loss_z", "recall", "precision", "false_warnings", "steps", "deaths", "open_1", "open_15", "open_50"]
        kept += ["deaths_ahead_1", "deaths_ahead_15"]
        found[name] = {key: figures[key] for key in kept if np.isfinite(figures.get(key, np.nan))} or None
    return found


def _read(path: Path, sealed: bool = False) -> dict[str, Any]:
    return read_json(path, sealed=sealed) if path.exists() else {}


def rounds_table(rounds: list[dict[str, Any]]) -> Table:
    """All rounds beside each other, see `summary_of`."""
    header = ["round", "episodes recorded", "their mean score", "frames learned from", "dream", "game", "95% interval", "dream : game"]
    header += ["M's loss on the next round's play", "on held-out play of the last C", "deaths foreseen there", "deaths in dreams of it"]

    def of(figures: dict[str, Any] | None, key: str, shown: str) -> str:
        value = (figures or {}).get(key)
        return "" if value is None else format(value, shown)

    rows = []
    for row in rounds:
        game, dream = row["game"], row["dream"]
        cells = [str(row["round"]), f"{row['episodes']:,}", f"{row['recorded_score']:.0f}", f"{row['learned_frames']:,}"]
        cells += [mean_and_std(dream) if dream else "", mean_and_std(game) if game else "not run"]
        cells += ["{:.0f} .. {:.0f}".format(*game["ci95"]) if game else ""]
        cells += [f"{dream['mean'] / game['mean']:.2f}" if dream and game and game["mean"] else ""]
        cells += [of(row["surprise"], "loss", ".3f"), of(row["skilled"], "loss", ".3f"), of(row["skilled"], "recall", ".0%")]
        cells += [of(row["skilled"], "deaths_ahead_15", ".0%")]
        rows.append(cells)
    notes = ["M's loss is minus the log-likelihood of the next z, and of what else M predicts, of episodes that it has not learned from."]
    notes += ["Deaths in dreams: those that M expects 15 steps into dreams of held-out play, as a share of those that came."]
    return Table("Rounds", header, rows, notes, rounds)


def write_rounds(task: Task, plan: list[tuple[Path, Settings]]) -> Path:
    """rounds.md, rounds.png and rounds.json in RUN/rounds; returns the first."""
    folder = plan[0][0] / ROUNDS
    rounds = [summary_of(number, run, f"{HELD_OUT}-{len(plan)}") for number, (run, _) in enumerate(plan, start=1)]
    write_json(folder / "rounds.json", rounds)
    plot_rounds(task, rounds, folder / "rounds.png")
    lines = [f"# {task.shown}: {len(plan)} rounds of the iterative procedure", "", rounds_table(rounds).markdown(), ""]
    lines += ["![scores, and M's loss, of all rounds](rounds.png)", ""]
    first, last = (Path("..") / run.relative_to(plan[0][0]) / "report" / "dream.gif" for run in (plan[0][0], plan[-1][0]))
    lines += [f"| a dream of round 1 | of round {len(plan)} |", "|---|---|", f"| ![round 1]({first}) | ![round {len(plan)}]({last}) |", ""]
    lines += [
        f"- round {row['round']}: [its report]({Path('..') / Path(run).relative_to(plan[0][0]) / 'report' / 'report.md'})"
        for row, (run, _) in zip(rounds, plan)
    ]
    write_atomic(folder / "rounds.md", lambda file: file.write(("\n".join(lines) + "\n").encode()))
    return folder / "rounds.md"


def plot_rounds(task: Task, rounds: list[dict[str, Any]], target: Path) -> None:
    """Scores in the game and in the dream, and M's loss on play that it has not learned from, against the round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (scores, losses) = plt.subplots(1, 2, figsize=(10, 3.6))
    numbers = [row["round"] for row in rounds]
    for name in ("game", "dream"):
        there = [(row["round"], row[name]) for row in rounds if row[name]]
        errors = [2 * found["std"] / found["episodes"] ** 0.5 for _, found in there]
        scores.errorbar(
            [number for number, _ in there], [found["mean"] for _, found in there], yerr=errors, marker="o", capsize=3, label=name
        )
    for name, title in (("surprise", "the next round's play"), ("skilled", "held-out play of the last C")):
        there = [(row["round"], row[name]["loss"]) for row in rounds if row[name]]
        losses.plot([number for number, _ in there], [loss for _, loss in there], marker="o", label=title)
    for axis, title in ((scores, f"{task.shown}: score, with its 95% interval"), (losses, "M's loss on play it has not seen")):
        axis.set(title=title, xlabel="round", xticks=numbers)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(figure, target)
