"""Copy a run's trained agent to where the project ships it, small, with the logs that show how it was made.

    python controller/ship.py carracing --run runs/carracing-day
    python controller/ship.py doom --run runs/doom/rounds/2 --to controller/shipped/doom/systems/mdnrnn-cmaes-round-2

Writes vae/shipped/TASK, rnn/shipped/TASK and controller/shipped/TASK: weights, the trainings' logs and pictures, initial.npz (first
frames, from which dreams start), settings.json, and the C's of the run's studies in controller/shipped/TASK/rows; a run with another
memory or trainer than the paper's goes to controller/shipped/TASK/systems/MEMORY-TRAINER, laid out as a run, and so does any run to the
directory --to. V and M are kept in half precision: score the agents again after shipping them, as this command then says.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
import shutil

import numpy as np

from controller.results.evidence import ROWS
from env.episodes import PRIVILEGED
from env.run.command import parser, resolve, run_command
from env.run.errors import UserError
from env.run.files import REPOSITORY, copy_log, load_arrays, save_arrays, write_json
from env.run.rundir import saved_settings, study_folders
from env.run.settings import Settings
from env.run.stages import Stage
from env.run.weights import comes_along, fingerprint, fingerprints, model_paths, shipped, shipped_run, unfit
from env.tasks import Task, as_shipped

LAID_OUT = ("vae", "encode", "rnn", "controller", "evaluate")  # folders of an agent that is laid out as a run
# Pictures of a report that are shipped: floor, name there, name here.
PICTURES = (
    ("vae", "reconstructions", "reconstructions"),
    ("controller", "agent", "agent"),
    ("controller", "controller", "curve"),
    ("controller", "moments", "moments"),
)


def small(name: str, array: np.ndarray) -> np.ndarray:
    """An array in half precision. V's decoder, four fifths of all weights and needed for pictures only, is rounded to 6 of
    the 10 bits of the mantissa (1% at most), which halves what zlib makes of it."""
    half = np.asarray(array, np.float16)
    if "/dec_" not in name:
        return half
    return ((half.view(np.uint16) + np.uint16(8)) & np.uint16(0xFFF0)).view(np.float16)


def copy_weights(source: Path, target: Path, smaller: bool) -> None:
    """Copy weights, in half precision if that is asked for, without the head by which M told what is privileged: nobody asks it."""
    arrays, meta = load_arrays(source)
    arrays = {key: array for key, array in arrays.items() if PRIVILEGED not in key}
    save_arrays(target, {key: small(key, array) if smaller else array for key, array in arrays.items()}, meta, compress=9)
    print(f"{target.parent.name}/{target.name}: {target.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    new = parser(__doc__ or "", "ship")
    new.add_argument("--to", type=Path, metavar="DIR", help="copy M, C, logs and settings there, and V if it is not found from there")
    parsed = new.parse_args()
    task, run, settings = resolve(parsed, "ship")
    if not (run / "report" / "report.md").exists():
        raise UserError(f"{run} has no report yet: run 'bash run.sh {task.word} --run {run}' to its end first")
    if parsed.to or not settings.is_papers:
        target = parsed.to or shipped_run(task.name, settings.memory, settings.trainer)
        check_target(run, target)
        lay_out(task, run, settings, target)
        return
    check_shape(task, settings)
    copy_weights(run / "vae" / "weights.npz", shipped("vae", task.name, "weights.npz"), True)
    copy_weights(run / "rnn" / "weights.npz", shipped("rnn", task.name, "weights.npz"), True)
    # C is small, and its exact numbers were scored.
    copy_weights(run / "controller" / "best.npz", shipped("controller", task.name, "best.npz"), False)
    copy_weights(run / "encode" / "initial.npz", shipped("vae", task.name, "initial.npz"), True)
    for floor in ("vae", "rnn", "controller"):
        copy_log(run / floor / "log.jsonl", shipped(floor, task.name, "log.jsonl"))
    for floor, picture, name in PICTURES:
        shutil.copyfile(run / "report" / f"{picture}.png", shipped(floor, task.name, f"{name}.png"))
    write_json(shipped("controller", task.name, "settings.json"), settings.to_dict())
    ship_rows(task, run)
    print("V, M and so all scores are others now; to make them:")
    shipped_folder = shipped("controller", task.name, "best.npz").parent
    for best in (shipped_folder / "best.npz", *sorted((shipped_folder / ROWS).glob("*/best.npz"))):
        best = best.relative_to(REPOSITORY)
        print(f"python controller/evaluate.py {task.name} --weights {best} --json {best.with_name('scores.json')}")


def check_shape(task: Task, settings: Settings) -> None:
    """Raise UserError when a V and M of the paper's kind are not of its shape: in the place of those that come along, nothing would load
    them."""
    from rnn.memory import memory_meta

    if found := unfit(memory_meta(task, settings), memory_meta(task, as_shipped(settings, task))):
        raise UserError("the run has {} {}, what comes along as the paper's agent has {}: give --to and a folder of its own".format(*found))


def check_target(run: Path, target: Path) -> None:
    """Raise UserError when what lies in `target` would be lost though no earlier agent lies there."""
    here, there = run.resolve(), target.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UserError(f"--to {target} and the run {run} lie within each other: name a folder beside it")
    if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or (target / "settings.json").is_file())):
        raise UserError(f"--to {target} is there and holds no agent: name a new folder, or an agent's that is to be replaced")


def lay_out(task: Task, run: Path, settings: Settings, target: Path) -> None:
    """Copy the agent of a run, laid out as a run, in the place of the one that lies there; its V only if it is not found from there:
    agents that come with the project find the V that does."""
    made = target.with_name(f".{target.name}.new")
    shutil.rmtree(made, ignore_errors=True)  # of a call that was killed
    try:
        write_agent(task, run, settings, made, comes_along(target, task.name))
        for name in LAID_OUT:
            shutil.rmtree(target / name, ignore_errors=True)
        target.mkdir(parents=True, exist_ok=True)
        for path in made.iterdir():
            path.replace(target / path.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    print("M is rounded now; to score it:")
    folder = Path(os.path.relpath(target.resolve(), REPOSITORY))
    print(f"python controller/evaluate.py {task.name} --run {folder} --json {folder / 'evaluate' / 'scores.json'}")


def write_agent(task: Task, run: Path, settings: Settings, target: Path, finds_vae: bool) -> None:
    """The files of `lay_out`.

    Args:
        task, run, settings: the run's.
        target: an empty folder, or none yet.
        finds_vae: whether the V that comes with the project is found from where the agent will lie.
    """
    models, known = model_paths(task.name, run), shipped("vae", task.name, "weights.npz")
    own_vae = not finds_vae or not known.exists() or fingerprint(models.vae) != fingerprint(known)
    params, meta = load_arrays(run / "controller" / "best.npz")
    for stage, path in (*((("vae", models.vae),) if own_vae else ()), ("encode", models.initial), ("rnn", models.rnn)):
        # What comes with the project goes to where a run has its own.
        copy_weights(path, target / (path.relative_to(run) if path.is_relative_to(run) else Path(stage) / path.name), True)
    # C's numbers stay; what it says of the V and M that it learned with are their rounded ones.
    made_with = {"made_with": fingerprints(model_paths(task.name, target))} if "made_with" in meta else {}
    save_arrays(target / "controller" / "best.npz", params, meta | made_with, compress=9)
    for log in [f"{stage}/log.jsonl" for stage in (*(("vae",) if own_vae else ()), "rnn", "controller")]:
        if (run / log).exists():
            (target / log).parent.mkdir(parents=True, exist_ok=True)
            copy_log(run / log, target / log)
    write_json(target / "settings.json", settings.to_dict())
    (target / "evaluate").mkdir()


def ship_rows(task: Task, run: Path) -> None:
    """Copy the finished C's of the run's studies, instead of those of an earlier run."""
    rows = shipped("controller", task.name, ROWS)
    shutil.rmtree(rows, ignore_errors=True)
    for folder in study_folders(run):
        settings = saved_settings(folder)
        if settings and Stage(folder, "controller", settings).finished:
            (rows / folder.name).mkdir(parents=True, exist_ok=True)
            for source in (folder / "settings.json", folder / "controller" / "best.npz"):
                shutil.copyfile(source, rows / folder.name / source.name)
            copy_log(folder / "controller" / "log.jsonl", rows / folder.name / "log.jsonl")


if __name__ == "__main__":
    run_command(main)
