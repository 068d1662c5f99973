"""What every command shares: its flags, how they become settings, progress bars, and how it fails."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env.run.errors import UserError, as_user_error, refuse
from env.run.files import TENSORBOARD
from env.run.flags import OneLineParser, add_flags, flag_name, given
from env.run.rundir import default_run, said_rounds, saved_settings
from env.run.settings import BESIDE, MEMORIES, SCALES, SECTIONS, TRAINERS, Settings, unused_flags
from env.run.stopping import RESUME, Stopped, handled, stop_at_once
from env.tasks import TASKS, Task, get_task, system

SHOW = "WORLD_MODELS_PROGRESS"  # environment variable: show progress bars though the output is no terminal
TRAININGS = (None, "vae", "rnn", "controller")  # the stages that train, and the whole pipeline
GAMES = f"{', '.join(TASKS)}, or the .py file of your own game"


def parser(doc: str, stage: str | None) -> OneLineParser:
    """The parser of a stage's command (its own settings as plain flags), or of the whole pipeline (stage=None, all
    settings as --stage-field)."""
    new = OneLineParser(description=doc, prog=Path(sys.argv[0]).name)
    own = ", or what a game of your own says"
    new.add_argument("task", nargs="?", default="carracing", metavar="TASK", help=f"{GAMES} (default: carracing)")
    new.add_argument("--run", type=Path, metavar="DIR", help="the run's directory (default: runs/TASK, or runs/TASK-SCALE)")
    new.add_argument("--scale", choices=SCALES, help="a set of settings (default: paper, or what the run was made with)")
    new.add_argument("--memory", choices=MEMORIES, help=f"which M: the paper's, or a recurrent state-space model (default: mdnrnn{own})")
    new.add_argument("--trainer", choices=TRAINERS, help=f"who finds C: CMA-ES, or an actor-critic in imagination (default: cmaes{own})")
    new.add_argument("--seed", type=int, metavar="int", help="seed of everything random (default: 1)")
    if stage in TRAININGS:
        new.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too: RUN/<stage>/tensorboard")
    for section in own_sections(stage):
        prefix = flag_prefix(stage, section)
        add_flags(new, SECTIONS[section], prefix, group=f"settings of {section}", papers=partial(papers_value, section))
    taken = {option for action in new._actions for option in action.option_strings}
    free = [f for f in dataclasses.fields(SECTIONS["world"]) if flag_name(f.name) not in taken]
    only, papers = [f.name for f in free], partial(papers_value, "world")
    add_flags(new, SECTIONS["world"], group="settings of the world", only=only, papers=papers)
    return new


def own_sections(stage: str | None) -> list[str]:
    """The sections of settings that a command has flags for, beside the world's: a stage's own, or, for the pipeline, all."""
    if stage is None:
        return [name for name in SECTIONS if name != "world"]
    return [stage, *BESIDE.get(stage, ())] if stage in SECTIONS else []


def flag_prefix(stage: str | None, section: str) -> str:
    """What stands before a field's name in its flag: nothing for a stage's own section, and for the world's."""
    return "" if section in (stage, "world") else f"{section}_"


def papers_value(section: str, field: str) -> str:
    """The value of a setting at scale `paper`, for help texts: one for all tasks, or 'carracing 32, doom 64'."""
    values = {name: getattr(getattr(task.scales["paper"], section), field) for name, task in TASKS.items()}
    if len(set(values.values())) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{name} {value}" for name, value in values.items())


def resolve(parsed: argparse.Namespace, stage: str | None, of_run: bool = True) -> tuple[Task, Path, Settings]:
    """Flags -> (task, run directory, settings): the run's saved settings (unless of_run is False), else the scale's, with the given
    flags on top.

    Raises:
        UserError: unknown task, a value out of bounds, or a run of another task or scale.
    """
    task = get_task(parsed.task)
    if getattr(parsed, "tensorboard", False):
        os.environ[TENSORBOARD] = "1"  # for the processes that this one starts, too
    of_scale = task.scales[parsed.scale or "paper"]
    memory, trainer = parsed.memory or of_scale.memory, parsed.trainer or of_scale.trainer
    run = parsed.run or default_run(task.name, parsed.scale or "paper", memory, trainer)
    base = (saved_settings(run) if of_run else None) or system(of_scale, memory, trainer)
    if base.task != task.name:
        raise UserError(f"{run} is a run of {base.task}, not of {task.name}: choose another --run")
    if parsed.scale and base.scale != parsed.scale:
        raise UserError(f"{run} is a run at scale {base.scale}, not {parsed.scale}: choose another --run")
    for what, now, wanted in (("memory", base.memory, parsed.memory), ("trainer", base.trainer, parsed.trainer)):
        if wanted and wanted != now:
            raise UserError(f"{run} is a run with --{what} {now}, not {wanted}: choose another --run")
    if of_run and not said_rounds(run):
        base = dataclasses.replace(base, rounds=system(task.scales[base.scale], base.memory, base.trainer).rounds)
    changes: dict[str, Any] = {}
    for name in (*own_sections(stage), "world"):
        values = given(parsed, SECTIONS[name], flag_prefix(stage, name))
        strange = [key for key in values if key in unused_flags(base.memory, base.trainer, name)]
        if strange:
            flag = flag_name(flag_prefix(stage, name) + strange[0])
            raise UserError(f"{flag} means nothing with --memory {base.memory} and --trainer {base.trainer}: leave it out, or take others")
        if name == "world" and stage in SECTIONS:
            values = {k: v for k, v in values.items() if k not in {f.name for f in dataclasses.fields(SECTIONS[stage])}}
        changes[name] = dataclasses.replace(getattr(base, name), **values)
    if parsed.seed is not None:
        changes["seed"] = parsed.seed
    settings = dataclasses.replace(base, **changes)
    settings.check()
    settings.check_dreams(task.step_reward)
    settings.check_told(task.health, task.privileged)
    if stage in ("extract", "rnn"):
        settings.check_ends()
    if stage is None:
        settings.check_together()
    return task, run, settings


def check_repeat(parsed: argparse.Namespace, settings: Settings) -> None:
    """Raise UserError when --repeat asks for another time than that for which the C that was loaded, by these settings, holds actions."""
    if parsed.repeat not in (None, settings.world.repeat):
        raise UserError(f"--repeat {parsed.repeat}: this C was made to hold its actions for {settings.world.repeat}: leave it out")


def existing(run: Path, task: Task) -> Path:
    """`run`, when it is there.

    Raises:
        UserError: it is not; a mistyped --run must not become a new run.
    """
    if not run.is_dir():
        raise UserError(f"run directory {run} is missing: run controller/extract.py {task.word} --run {run} first, or give another")
    return run


def progress(steps: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A progress bar with the time left; silent when the output is not a terminal.

    Under mpirun a rank's output never is one: the pipeline, which knows better, says so by the variable SHOW.
    """
    shown = sys.stderr.isatty() or bool(os.environ.get(SHOW))
    return tqdm(steps, disable=not shown, ncols=100, smoothing=0.05, **options)


def check_writable(path: Path | None) -> None:
    """Raise UserError now, and not after all the work, when the file of --json cannot be written."""
    if path and (path.is_dir() or not os.access(path.resolve().parent, os.W_OK)):
        raise UserError(f"--json {path} cannot be written: name a file in a folder that is there and yours")


def processes(count: int) -> str:
    """'1 process' or '2 processes'."""
    return f"{count} process{'es' if count > 1 else ''}"


def duration(seconds: float) -> str:
    """'50 s', '12 min', '3.5 h' or '40 days'."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def run_command(main: Callable[[], None]) -> None:
    """Run a command's main function: UserError becomes one line and exit code 2, Ctrl-C exit code 130, Stopped RESUME.

    Under MPI, rank 0 alone prints the line when all ranks fail alike (see env/run/ranks.py for the rest).
    """
    try:
        with handled(stop_at_once):
            main()
    except UserError as error:
        refuse(error)
    except OSError as error:
        known = as_user_error(error)
        if known is None:
            raise
        refuse(known)
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        sys.exit(RESUME)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes", file=sys.stderr)
        sys.exit(130)
