"""A whole run: extract, vae, encode, rnn, controller, evaluate, report. This is what run.sh calls.

    python controller/pipeline.py carracing
    python controller/pipeline.py carracing --scale day --run runs/mine --controller-population 32
    python controller/pipeline.py doom --temperatures 0.1,0.5,1.0,1.15,1.3

A finished stage is skipped, an interrupted one resumes; a stage that was made with other settings is named, not reused.
With --temperatures, V and M are made once, and then a C for each temperature (see controller/temperatures.py).
Stages that play episodes run on MPI ranks, one for each core (--ranks), the others use all cores or the GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence

from controller.estimate import describe, measure
from controller.temperatures import OWN, SHARED, at_temperature, check_study, link_stages, parse_temperatures, write_table
from controller.weights import fingerprint
from env.command import SHOW, parser, resolve, run_command
from env.compute import available_cores
from env.episodes import cut_or_missing
from env.rundir import Run
from env.settings import UserError
from env.tasks import STAGES, Settings

COMMANDS = {
    "extract": "controller/extract.py",
    "vae": "vae/train.py",
    "encode": "vae/encode.py",
    "rnn": "rnn/train.py",
    "controller": "controller/train.py",
    "evaluate": "controller/evaluate.py",
    "report": "controller/report.py",
}
ON_RANKS = ("extract", "controller", "evaluate")


def mpirun(ranks: int) -> list[str]:
    """The words that start a command on `ranks` ranks; none for one rank.

    Raises:
        UserError: there is no mpirun.
    """
    if ranks == 1:
        return []
    beside = Path(sys.executable).with_name("mpirun")  # the one of the installed mpich, which mpi4py was made for
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise UserError("there is no mpirun: install the packages of requirements.txt, or give --ranks 1")
    return [found, "-np", str(ranks)]


def run_stage(name: str, task: str, run: Path, ranks: int) -> None:
    """Run one stage's command to its end; its failure is this command's, with the same exit code."""
    root = Path(__file__).resolve().parents[1]
    words = mpirun(ranks if name in ON_RANKS else 1)
    words += [sys.executable, str(root / COMMANDS[name]), task, "--run", str(run)]
    started = time.monotonic()
    environment = os.environ | ({SHOW: "1"} if sys.stderr.isatty() else {})
    child = subprocess.Popen(words, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # or its ranks would play on without us
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.wait()  # the terminal told it, too
        raise
    if code:
        print(f"{name}: stopped with exit code {code}; the same command goes on from here", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)
    print(f"{name}: took {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    new = parser(__doc__ or "", None)
    new.add_argument("--ranks", type=int, default=available_cores(), metavar="int", help="MPI ranks (default: one for each core)")
    new.add_argument("--no-estimate", action="store_true", help="start at once, without measuring this machine first")
    new.add_argument("--temperatures", metavar="LIST", help="evolve a C at each of these temperatures, such as 0.5,1.0,1.15")
    parsed = new.parse_args()
    if parsed.ranks < 1:
        raise UserError(f"--ranks is {parsed.ranks}: it must be at least 1")
    mpirun(parsed.ranks)
    temperatures = parse_temperatures(parsed.temperatures) if parsed.temperatures is not None else ()
    task, path, settings = resolve(parsed, None)
    if temperatures:
        check_study(settings)
    waiting = waiting_stages(path, settings, SHARED if temperatures else STAGES)
    report = () if temperatures else ("report",)
    if not waiting and report and (path / "report" / "report.md").exists():
        print(f"{path} is finished: see {path / 'report' / 'report.md'}")
        return
    if waiting and not parsed.no_estimate:
        rates = measure([task.name, "--run", str(path)])
        print(describe(task, settings, rates, parsed.ranks, waiting), flush=True)
    print(f"to do in {path}: {', '.join([*waiting, *report]) or 'the temperatures'}", flush=True)
    for name in (*waiting, *report):
        run_stage(name, task.name, path, parsed.ranks)
    for temperature in temperatures:
        study, its = at_temperature(path, settings, temperature)
        link_stages(path, study)
        for name in waiting_stages(study, its, OWN):
            run_stage(name, task.name, study, parsed.ranks)
    if temperatures:
        print(write_table(path, task))
        print(f"finished: see {path / 'temperatures' / 'table.md'}")
    else:
        print(f"finished: see {path / 'report' / 'report.md'}")


def waiting_stages(path: Path, settings: Settings, stages: Sequence[str]) -> list[str]:
    """Those of the stages that are not finished; the run's settings are checked and saved.

    Raises:
        UserError: as `Run`, or a finished C would be left on another V and M.
    """
    run = Run(path, settings)
    waiting = [name for name in stages if not is_finished(run, name)]
    if {"vae", "rnn"} & set(waiting) and is_finished(run, "controller"):
        raise UserError(f"{path} has a C that was evolved on another V and M: choose another --run, or delete {path / 'controller'}")
    run.release()  # each stage's command takes the lock itself
    return waiting


def is_finished(run: Run, name: str) -> bool:
    """Whether a stage is finished with the run's settings; a scoring with others, or of an older C, counts as not."""
    stage = run.stage(name)
    if name in ("extract", "encode"):
        folder = stage.dir / ("episodes" if name == "extract" else "latents")
        return stage.check() and not cut_or_missing(folder, range(run.settings.extract.episodes))
    if name != "evaluate":
        return stage.check()
    best = run.path / "controller" / "best.npz"
    try:
        return stage.check() and best.exists() and stage.summary.get("controller") == fingerprint(best)
    except UserError:
        return False


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run_command(main)
