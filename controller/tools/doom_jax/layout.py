"""What the program wrote, as a run that verify.py and evaluate.py read. Needs no JAX."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from controller.tools.doom_jax.plan import Plan
from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays, read_json, write_json


def lay_out(out: Path, run: Path) -> None:
    """What this program wrote to `out`, as a run: V, M, first frames, and a study for each C, the mean solution that was best in dreams.
    A study's seconds are its share of those of all evolutions, which dream side by side.

    Raises:
        UserError: `out` lacks something, or `run` exists.
    """
    from controller.agent import save_controller

    if run.exists():
        raise UserError(f"{run} exists: name a new folder")
    facts = read_json(out / "facts.json")
    plan = Plan(**facts["plan"])
    steps = load_arrays(out / "vae" / "weights.npz")[1]["steps"]
    settings = plan.settings
    settings = replace(settings, extract=replace(settings.extract, episodes=facts["episodes"]))
    settings = replace(settings, vae=replace(settings.vae, epochs=1, limit_steps=steps))
    (run / "encode").mkdir(parents=True)
    write_json(run / "settings.json", settings.to_dict())
    write_json(run / "facts.json", facts)
    shutil.copyfile(out / "initial.npz", run / "encode" / "initial.npz")
    for floor in ("vae", "rnn"):
        (run / floor).mkdir()
        shutil.copyfile(out / floor / "weights.npz", run / floor / "weights.npz")
        JsonlLog(run / floor / "log.jsonl", rows=_rows(out / floor / "log.jsonl"))
    for number, (temperature, seed) in enumerate(plan.evolutions):
        its = replace(settings, controller=replace(settings.controller, temperature=temperature, es_seed=seed))
        name = plan.name(number)
        rows, study = _rows(out / name / "log.jsonl"), run / "studies" / name
        best = max((row for row in rows if "eval" in row), key=lambda row: row["eval"])
        (study / "controller").mkdir(parents=True)
        for shared in ("vae", "encode", "rnn"):  # as those of run.sh's studies
            (study / shared).symlink_to(Path("..", "..", shared), target_is_directory=True)
        write_json(study / "settings.json", its.to_dict())
        own = [row | {"seconds": row["seconds"] / len(plan.evolutions)} for row in rows]
        JsonlLog(study / "controller" / "log.jsonl", rows=own)
        with np.load(out / name / "means.npz", allow_pickle=False) as means:
            mean = means[f"generation-{best['generation']}"]
        note = {"generation": best["generation"], "score": best["eval"], "std": best["eval_std"], "episodes": plan.scored}
        save_controller(study / "controller" / "best.npz", mean, its, note | {"unplanned": False})


def _rows(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]
