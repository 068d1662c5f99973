"""The paper's tables with ours beside them: what controller/verify.py shows. Every figure is computed from files; none is typed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.results.evidence import Agent, Evidence, Rows, parameters
from controller.results.paper import (
    MARGIN,
    NEAR,
    ORIGINAL_CORE_HOURS,
    ORIGINAL_CURVE,
    ORIGINAL_EVOLUTION,
    ORIGINAL_FEATURES,
    ORIGINAL_TRAINING,
    PARAMETERS,
    RANDOM,
    SCORES,
    Published,
)
from controller.results.scores import mean_and_std, otherwise
from controller.results.welch import PAPER_EPISODES, difference, paired, verdict
from env.run.errors import UserError
from env.run.settings import MEMORIES, TRAINERS, Controller, Settings
from env.run.weights import SHIPPED
from env.tasks import system

NOT_RUN = "not run"
CONDITIONS = ("render", "frames", "dtype", "max_steps")  # of a scoring
PARTS = {"vae": "V", "rnn": "M", "controller": "C"}
STAGES = (0, 1 / 7, 2 / 7, 4 / 7, 1)  # of an episode's most steps: in Doom up to 300, 600, 1,200 and 2,100


@dataclass(frozen=True)
class Table:
    """A heading, a table, and notes below it.

    Attributes:
        title: the heading.
        header, rows: the cells, as they are shown.
        notes: lines below.
        data: the same for programs: a dict for each row.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    data: list[dict[str, Any]]

    def markdown(self) -> str:
        """As Markdown, columns aligned for reading it as it is."""
        widths = [max(len(row[i]) for row in (self.header, *self.rows)) for i in range(len(self.header))]
        lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in (self.header, *self.rows)]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([f"### {self.title}", "", *lines, *(f"\n{note}" for note in self.notes)])


def all_tables(evidence: Evidence) -> list[Table]:
    """Those of one game, without the empty ones."""
    papers = [] if evidence.systems and not evidence.agents else [score_rows(evidence)]
    tables = [*papers, systems_table(evidence), deaths_table(evidence), paired_table(evidence), *curve_tables(evidence)]
    tables += [*loss_tables(evidence), forecast_table(evidence), parameter_table(evidence), cost_table(evidence)]
    return [table for table in tables if table.rows]


def score_rows(evidence: Evidence) -> Table:
    """The paper's table of scores: a row for each C of ours, under the paper's row that it belongs to, and "not run" where there is
    none; then those of ours that the paper has no row for."""
    dreams = any(row.dream for row in SCORES.get(evidence.task.name, ()))
    header = ["row", *(["dream: paper", "dream: ours"] if dreams else []), "paper", "ours", "95% interval", "difference (95%)", "p"]
    header += ["verdict", "C", "generations"]
    rows, data = [], []

    def add(title: str, row: Published | None, agent: Agent | None, scores: dict[str, Any] | None, name: str) -> None:
        found = _score(evidence, row, agent, scores)
        cells = [title]
        if dreams:
            dream = (scores or {}).get("dream") if not found["reason"] else None
            if agent and dream and dream["temperature"] != agent.settings.controller.temperature:
                dream = None  # scored in other dreams than the paper's row is of (evaluate.py --temperature)
            cells += [f"{row.dream[0]:g} ± {row.dream[1]:g}" if row and row.dream else "", mean_and_std(dream) if dream else ""]
        cells += [f"{row.mean:g} ± {row.std:g}" if row else "", found["ours"], found["interval"], found["difference"], found["p_shown"]]
        generations = _generations(agent)
        rows.append([*cells, found["verdict"] + (f" ({found['reason']})" if found["reason"] else ""), name, generations])
        data.append(
            {
                "row": title,
                "agent": name,
                "generations": generations,
                **found["data"],
                "verdict": found["verdict"],
                "reason": found["reason"],
            }
        )

    matched: set[str] = set()
    for row in SCORES.get(evidence.task.name, ()):
        if row.method == RANDOM:
            add(row.method, row, None, evidence.policies.get("uniform"), "uniform" if "uniform" in evidence.policies else "")
        if row.features is None:
            continue
        ours = [agent for agent in evidence.agents if belongs(agent.settings.controller, row)]
        matched |= {agent.name for agent in ours}
        for agent in ours:
            add(row.method + _otherwise(agent.settings), row, agent, agent.scores, agent.name)
        if not ours:
            add(row.method, row, None, None, "")
    for agent in evidence.agents:
        if agent.name not in matched:
            add(described(agent.settings.controller) + _otherwise(agent.settings), None, agent, agent.scores, agent.name)
    notes = [
        "The verdict is Welch's test on our episodes and the paper's 100: above or below where p < 0.05; else reproduced, if the interval "
        f"of the difference keeps within {MARGIN.get(evidence.task.name, 0):.0%} of the paper's mean, or undecided. A standard deviation "
        "is over episodes of one C; how much another evolution would differ is not in it.",
    ]
    return Table("Scores", header, rows, notes, data)


def belongs(c: Controller, row: Published) -> bool:
    """Whether a C of these settings fills this row of the paper."""
    temperature = c.temperature if c.world == "dream" else None
    return (row.features, row.hidden, row.temperature) == (c.features, c.hidden, temperature)


def _generations(agent: Agent | None) -> str:
    """'90', or '25 of 90' of an evolution that is not at its end."""
    done, planned = (agent.log[-1]["generation"], agent.settings.controller.generations) if agent and agent.log else (0, 0)
    return (str(done) if done >= planned else f"{done} of {planned}") if planned else ""


def described(c: Controller) -> str:
    """A C that the paper has no row for: 'zh, 40 hidden units', 'zch, tau 1.25'."""
    words = [c.features, *([f"{c.hidden} hidden units"] if c.hidden else []), *([f"tau {c.temperature:g}"] if c.world == "dream" else [])]
    return ", ".join(words)


def _score(evidence: Evidence, row: Published | None, agent: Agent | None, scores: dict[str, Any] | None) -> dict[str, Any]:
    """A row's cells: ours, its interval, the difference from the paper's, p, the verdict and, where there is none, the reason."""
    empty = {"ours": "", "interval": "", "difference": "", "p_shown": "", "data": {}}
    if scores is None:
        return empty | {"verdict": NOT_RUN, "reason": "not scored yet" if agent else ""}
    if agent and agent.stale:
        return empty | {"verdict": "refused", "reason": agent.stale}
    low, high = scores["ci95"]
    data = {"episodes": scores["episodes"], "mean": scores["mean"], "std": scores["std"], "ci95": scores["ci95"], "seed": scores["seed"]}
    cells = {"ours": mean_and_std(scores), "interval": f"{low:.0f} .. {high:.0f}", "difference": "", "p_shown": ""}
    if row is None:
        return cells | {"verdict": "", "reason": "", "data": data}
    data |= {"paper_mean": row.mean, "paper_std": row.std}
    reason = _incomparable(evidence, scores)
    if reason:
        return cells | {"verdict": "not comparable", "reason": reason, "data": data}
    found = difference(np.array(scores["returns"]), row.mean, row.std)
    cells |= {"difference": f"{found.mean:+.0f} ({found.low:+.0f} .. {found.high:+.0f})", "p_shown": f"{found.p:.2g}"}
    data |= {"difference": found.mean, "difference_ci95": [found.low, found.high], "p": found.p}
    return cells | {"verdict": verdict(found, row.mean, MARGIN[evidence.task.name]), "reason": "", "data": data}


def _incomparable(evidence: Evidence, scores: dict[str, Any]) -> str:
    """Why a scoring cannot stand beside the paper's; empty if it can."""
    paper = evidence.task.scales["paper"].world
    if scores["max_steps"] != paper.max_steps:
        return f"episodes of {scores['max_steps']} steps, the paper's have {paper.max_steps}"
    if scores["render"] != "official":
        return f"{scores['render']} drawing"
    if scores["episodes"] < PAPER_EPISODES:
        return f"{scores['episodes']} episodes, the paper's {PAPER_EPISODES}"
    return ""


def paired_table(evidence: Evidence) -> Table:
    """What other conditions change in the score of the same C on the same episodes, episode by episode."""
    rows, data = [], []
    for agent in evidence.agents:
        for name, other in agent.others.items():
            assert agent.scores
            usual = agent.scores
            told = [f"{other[key]} instead of {usual[key]}" for key in CONDITIONS if key in usual and other.get(key) != usual[key]]
            found = paired(np.array(other["returns"]), np.array(agent.scores["returns"]))
            what = ", ".join(told) or name
            shown = f"{found.mean:+.1f} ({found.low:+.1f} .. {found.high:+.1f})"
            rows.append(
                [agent.name, what, mean_and_std(other), mean_and_std(agent.scores), shown, f"{found.p:.2g}", str(other["episodes"])]
            )
            data.append({"agent": agent.name, "file": name, "conditions": what, "mean": other["mean"], "difference": found.mean})
            data[-1] |= {"difference_ci95": [found.low, found.high], "p": found.p}
    header = ["C", "condition", "score", "usual score", "difference, paired (95%)", "p", "episodes"]
    return Table("Same C, same episodes", header, rows, ["Student's test on the differences of single episodes."], data)


def curve_tables(evidence: Evidence) -> list[Table]:
    """Each evolution that saw what the authors' saw, beside theirs, at equal generations."""
    task = evidence.task.name
    header = [
        "generation",
        "ours: mean / min / max",
        "authors: mean / min / max",
        "difference of means",
        "ours: mean solution",
        "authors: mean solution",
    ]
    tables = []
    for agent in evidence.agents:
        c = agent.settings.controller
        if task not in ORIGINAL_CURVE or (c.features, c.hidden) != (ORIGINAL_FEATURES[task], 0):
            continue
        log = {row["generation"]: row for row in agent.log}
        rows, data = [], []
        for generation, (mean, low, high, scored) in ORIGINAL_CURVE[task].items():
            if generation not in log:
                continue
            ours = log[generation]
            solution = f"{ours['eval']:.0f} ± {ours['eval_std']:.0f}" if "eval" in ours else ""
            cells = [str(generation), f"{ours['mean']:.0f} / {ours['min']:.0f} / {ours['max']:.0f}", f"{mean} / {low} / {high}"]
            rows.append([*cells, f"{ours['mean'] - mean:+.0f}", solution, f"{scored:.0f}" if scored else ""])
            data.append({"generation": generation, "ours": [ours["mean"], ours["min"], ours["max"]], "authors": [mean, low, high]})
            data[-1] |= {"ours_mean_solution": ours.get("eval"), "authors_mean_solution": scored}
        ours_is = f"Ours: {evolution(agent.settings)}, the mean solution over {c.eval_episodes}"
        notes = [f"{ours_is}; the authors': {ORIGINAL_EVOLUTION[task]}, it over 1024."]
        tables.append(Table(f"Evolution of {agent.name}", header, rows, notes, data))
    return tables


def evolution(settings: Settings) -> str:
    """Under which settings a C was evolved: '64 x 8 dreams at temperature 1.15'."""
    c = settings.controller
    where = f"dreams at temperature {c.temperature:g}" if c.world == "dream" else "episodes"
    return f"{c.population} x {c.episodes} {where}{_otherwise(settings)}"


def _otherwise(settings: Settings) -> str:
    """What an agent does otherwise than the paper's."""
    searched = ", directions searched" if settings.controller.search == "directions" else ""
    shown = ", shown by a teacher" if settings.controller.teacher else ""
    return otherwise(settings.world.repeat, settings.controller.latents) + searched + shown


def loss_tables(evidence: Evidence) -> list[Table]:
    """V's and M's losses beside the authors' near equal training steps, where theirs are published."""
    tables = []
    for stage in ("vae", "rnn"):
        log = evidence.logs[stage]
        last = log[-1]["step"] if log else 0
        theirs = ORIGINAL_TRAINING.get(evidence.task.name, {}).get(stage, {})
        both = {step: (near(log, step, list(terms)), terms) for step, terms in theirs.items() if step <= last}
        names = list(next(iter(theirs.values()), {})) if both else []
        header = ["step", *(f"{name}: ours / authors / difference" for name in names)]
        rows = [[str(step), *(_compared(ours[name], *terms[name]) for name in names)] for step, (ours, terms) in both.items()]
        data = [{"step": step, "ours": ours, "authors": {n: terms[n][0] for n in names}} for step, (ours, terms) in both.items()]
        notes = [
            f"Means over the rows of the logs within {NEAR:.0%} of the step. Each of the authors' rows is of one batch, and ± the standard "
            "deviation between these (where there are three or more); each of ours is a mean of all batches since the last row."
        ]
        tables.append(Table(f"{PARTS[stage]}'s losses", header, rows, notes, data))
    return tables


def near(log: list[dict[str, Any]], step: int, names: list[str]) -> dict[str, float]:
    """Means of terms of the loss over the rows of a log near a step, of the next row after it where there is none as near."""
    rows = [row for row in log if abs(row["step"] - step) <= NEAR * step] or [next(row for row in log if row["step"] >= step)]
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def _compared(ours: float, theirs: float, deviation: float | None) -> str:
    spread = "" if deviation is None else f" ± {deviation:.2g}"
    return f"{ours:.4g} / {theirs:.4g}{spread} / {ours / theirs - 1:+.0%}"


def parameter_table(evidence: Evidence) -> Table:
    """Numbers in V, M and C."""
    published = PARAMETERS.get(evidence.task.name, {})
    files = dict(evidence.models)
    full = [agent for agent in evidence.agents if agent.settings.controller.features == ORIGINAL_FEATURES.get(evidence.task.name)]
    chosen = (full or evidence.agents)[:1]
    files |= {"controller": chosen[0].weights} if chosen else {}
    rows, data = [], []
    for part, path in files.items():
        ours, theirs = parameters(path), published.get(part)
        agree = "" if theirs is None else "reproduced" if ours == theirs else "differs"
        rows.append([PARTS[part], f"{ours:,}", f"{theirs:,}" if theirs else "", agree])
        data.append({"part": PARTS[part], "ours": ours, "paper": theirs, "verdict": agree})
    return Table("Parameters", ["part", "ours", "paper", "verdict"], rows, [], data)


def cost_table(evidence: Evidence) -> Table:
    """What it took: steps and core-hours of each training, as their logs say."""
    rows, data = [], []

    def add(name: str, what: str, log: Rows, seconds: list[float], authors: str) -> None:
        cores = [row.get("cores") for row in log]
        hours = sum(seconds) / 3600
        spent = sum(s * n for s, n in zip(seconds, cores) if n) / 3600 if all(cores) and log else None
        rows.append([name, what, _hours_shown(hours), f"{spent:.1f}" if spent is not None else "not logged", authors])
        data.append({"part": name, "what": what, "hours": hours, "core_hours": spent})

    for stage in ("vae", "rnn"):
        log = evidence.logs[stage]
        if log:
            steps = np.diff([0, *(row["step"] for row in log)])
            add(PARTS[stage], f"{log[-1]['step']:,} steps", log, [row["seconds_per_step"] * n for row, n in zip(log, steps)], "")
    for agent in evidence.agents:
        log, c = agent.log, agent.settings.controller
        if log:
            steps = sum(row["steps"] for row in log) / 1e6
            what = f"{log[-1]['generation']} generations of {evolution(agent.settings)}, {steps:.1f} M steps"
            full = c.features == ORIGINAL_FEATURES.get(evidence.task.name)
            theirs = f"{ORIGINAL_CORE_HOURS[evidence.task.name]:,} (1,800 generations)" if full else ""
            add(f"C, {agent.name}", what, log, [row["seconds"] + row.get("eval_seconds", 0.0) for row in log], theirs)
    return Table("Cost", ["part", "what", "hours", "core-hours", "authors' core-hours"], rows, [], data)


def _hours_shown(hours: float) -> str:
    """With as many digits as tell it from nothing."""
    return f"{hours:.1f}" if hours >= 0.05 else f"{hours:.3f}"


def systems_table(evidence: Evidence) -> Table:
    """Two memories and two trainers: what each scored, and what it took. Nothing where there is but the paper's."""
    header = ["agent", "memory", "trainer", "C learned in", "score", "95% interval", "episodes"]
    header += ["C's steps in the world", "hours of V, M, C"]
    title = "Two memories, two trainers"
    if not evidence.systems:
        return Table(title, header, [], [], [])
    scored = [agent for agent in evidence.agents if agent.scores and not agent.stale]
    # The one that comes with the project, which no table chose; of a run, the best.
    best = max(scored, key=lambda agent: (agent.name.endswith(SHIPPED), agent.scores["mean"] if agent.scores else 0.0), default=None)
    found = ([(best, evidence.logs)] if best else []) + evidence.systems
    rows, data = [], []
    for agent, logs in found:
        settings, scores = agent.settings, None if agent.stale else agent.scores
        in_dreams = settings.controller.world == "dream"
        counted = bool(agent.log) and "update" in agent.log[-1]  # by a log that counts on
        steps = 0 if in_dreams else agent.log[-1]["steps"] if counted else sum(row["steps"] for row in agent.log)
        hours = [_hours(logs["vae"]), _hours(logs["rnn"]), sum(row["seconds"] + row.get("eval_seconds", 0.0) for row in agent.log) / 3600]
        where = (f"dreams at {settings.controller.temperature:g}" if in_dreams else "the world") + _otherwise(settings)
        shown = (
            [mean_and_std(scores), f"{scores['ci95'][0]:.1f} .. {scores['ci95'][1]:.1f}", str(scores["episodes"])]
            if scores
            else ["", "", ""]
        )
        shown[0] = shown[0] or (f"refused: {agent.stale}" if agent.stale else "not scored")
        rows.append([agent.name, settings.memory, settings.trainer, where, *shown, f"{steps:,}", ", ".join(map(_hours_shown, hours))])
        data.append({"memory": settings.memory, "trainer": settings.trainer, "world_steps": steps, "hours": hours, "scores": scores})
    there = {(agent.settings.memory, agent.settings.trainer) for agent, _ in found}
    for memory, trainer in ((m, t) for m in MEMORIES for t in TRAINERS if (m, t) not in there):
        rows.append(["", memory, trainer, "", _why_not(evidence, memory, trainer), "", "", "", ""])
    notes = ["Hours are those of the machine that it ran on, as the logs say; V's are shared by agents on the same V."]
    return Table(title, header, rows, notes, data)


def deaths_table(evidence: Evidence) -> Table:
    """When agents die that were scored in the game and in M's dream: a dream in which danger does not grow as it does in the game is too
    easy for who lives long, however right it is about the first steps. Nothing where M foresees no deaths."""
    rows, data = [], []
    paper = evidence.task.scales["paper"]
    bounds = [round(stage * paper.world.max_steps) for stage in STAGES]
    for agent in [*evidence.agents, *(agent for agent, _ in evidence.systems)]:
        scores = None if agent.stale or not paper.rnn.restart else agent.scores
        if not scores or not scores.get("dream"):
            continue
        dream, settings, repeat = scores["dream"], agent.settings, agent.settings.world.repeat
        game, dreamt = (
            [1000 * rate for rate in deaths_per_step([repeat * length for length in found["lengths"]], limit, bounds)]
            for found, limit in ((scores, scores["max_steps"]), (dream, repeat * dream["steps"]))
        )
        shown = [" / ".join("-" if np.isnan(rate) else f"{rate:.2f}" for rate in both) for both in zip(game, dreamt)]
        rows.append([agent.name, f"{settings.memory}, {settings.trainer}", *shown, f"{scores['mean']:.0f} / {dream['mean']:.0f}"])
        data.append({"agent": agent.name, "steps": bounds, "game": game, "dream": dreamt})
    header = ["C", "memory, trainer", *(f"steps {low + 1:,} to {high:,}" for low, high in zip(bounds, bounds[1:])), "score"]
    notes = ["Game / dream: deaths for each 1,000 steps of the game lived in that part of an episode; - where nobody lived so long."]
    return Table("When they die", header, rows, notes, data)


def deaths_per_step(lengths: list[int], limit: int, bounds: list[int]) -> list[float]:
    """Deaths in each part of an episode as a share of the steps that were lived in it; nan where there were none.

    Args:
        lengths: steps of each episode.
        limit: those after which episodes are cut: no deaths.
        bounds: the parts' first and last steps, as [0, 300, 600].
    """
    steps, rates = np.array(lengths), []
    for low, high in zip(bounds, bounds[1:]):
        lived = np.clip(steps, low, high).sum() - low * len(steps)
        died = ((low < steps) & (steps <= high) & (steps < limit)).sum()
        rates.append(float(died / lived) if lived else float("nan"))
    return rates


def forecast_table(evidence: Evidence) -> Table:
    """What each M knows of games that it has not learned from: those of one kind of play below each other."""
    ahead = ("1", "5", "15", "50")
    header = ["who plays", "M", "memory", "minus log-likelihood of z", *(f"error {k} ahead" for k in ahead)]
    header += ["deaths foreseen", "right warnings"]
    kinds: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for (name, file), figures in evidence.forecasts.items():
        kinds.setdefault((file.removeprefix("foreseen_"), figures["recordings"]), []).append((name, figures))
    rows, data = [], []
    for (play, _), found in sorted(kinds.items()):
        for name, figures in found:
            errors = [f"{figures[f'open_{k}']:.3f}" if f"open_{k}" in figures else "" for k in ahead]
            shares = [_share(figures[key]) if figures.get("deaths") else "" for key in ("recall", "precision")]
            z = figures.get("loss_z", figures["loss"])  # the paper's M of CarRacing learns of z alone
            rows.append([play, name, figures["memory"], f"{z:.3f}", *errors, *shares])
            data.append({"play": play, "m": name} | figures)
        last = found[0][1]
        if "still_1" in last:
            rows.append([play, "", "the frame stays as it is", "", *(f"{last[f'still_{k}']:.3f}" for k in ahead), "", ""])
    notes = [
        "By `rnn/evaluate.py`, each M on the same recordings. The log-likelihood is a mean over z's dimensions, an RSSM's a bound that "
        "it is no worse than; of another V, which has another z, it says nothing beside the others. Errors: the mean of 16 forecasts that "
        "are told the actions alone, squared, as a share of z's variance.",
    ]
    return Table("What M foresees", header, rows, notes, data)


def _share(value: float) -> str:
    """Of warnings, where there were any."""
    return "none" if np.isnan(value) else f"{value:.0%}"


def _hours(log: Rows) -> float:
    """A training's, by its log."""
    steps = np.diff([0, *(row["step"] for row in log)])
    return float(sum(row["seconds_per_step"] * n for row, n in zip(log, steps)) / 3600)


def _why_not(evidence: Evidence, memory: str, trainer: str) -> str:
    """Why there is no such agent."""
    try:
        system(evidence.task.scales["paper"], memory, trainer).check_dreams(evidence.task.step_reward)
    except UserError:
        return "cannot be: this M dreams of no reward or no end"
    return NOT_RUN
