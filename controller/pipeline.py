"""A whole run: extract, vae, encode, rnn, controller, evaluate, report. This is what run.sh calls.

    python controller/pipeline.py carracing
    python controller/pipeline.py carracing --scale day --run runs/mine --controller-population 32
    python controller/pipeline.py doom --temperatures 0.1,0.5,1.0,1.15,1.3
    python controller/pipeline.py carracing --memory rssm --trainer actor_critic
    python controller/pipeline.py carracing --table
    python controller/pipeline.py doom --table --es-seeds 1,2,3
    python controller/pipeline.py doom --rounds 4

A finished stage is skipped, an interrupted one resumes; a stage that was made with other settings is named, not reused.
With --temperatures, --table or --es-seeds, V and M are made once, and then several C's on them: at each temperature of dreams, for each
row of the paper's table, by evolutions with each of these seeds (see controller/results/studies.py). With --rounds, the C of each round
plays the world, and V, M and C go on learning from what happened (see controller/rounds.py).
With another --memory or --trainer than the paper's, the same stages make another agent (controller/README.md, "The second system").
Stages that play episodes run on MPI ranks, one for each core (--ranks), the others use all cores or the GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
import signal
import subprocess
import time

from controller.estimate import check_disk, describe, measure
from controller.learn import check_actor
from controller.results.studies import OWN, SHARED, link_stages, plan_studies
from controller.rounds import check_rounds, figures_wanted, held_out_run, plan_rounds, write_rounds
from env.run.command import SHOW, flag_prefix, parser, resolve, run_command
from env.run.compute import available_cores, has_gpu
from env.run.errors import UserError
from env.run.flags import flag_name, given
from env.run.ranks import mpirun
from env.run.rundir import spoken, waiting_stages
from env.run.settings import SECTIONS, STAGES, Settings
from env.run.stopping import RESUME, handled
from env.run.taken import check_starts
from env.run.weights import STUDIES
from env.tasks import Task

COMMANDS = {
    "extract": "controller/extract.py",
    "vae": "vae/train.py",
    "encode": "vae/encode.py",
    "rnn": "rnn/train.py",
    "cmaes": "controller/train.py",
    "actor_critic": "controller/learn.py",
    "evaluate": "controller/evaluate.py",
    "report": "controller/report.py",
}
ON_RANKS = ("extract", "controller", "evaluate")


PATIENCE = 3
FOR_GOOD = (2, 130, RESUME)  # what a stage says that the same command would only say again, or that the user wanted


def run_stage(name: str, task: str, run: Path, ranks: int, trainer: str) -> None:
    """Run one stage's command on `ranks` processes to its end.

    Where it is killed, fails or gets stuck, it is started again, for it goes on from what it has on disk: PATIENCE times in a row
    without anything new there. Then, and where that would be of no use, its failure is this command's, with the same exit code.
    """
    root = Path(__file__).resolve().parents[1]
    words = mpirun(ranks)
    words += [sys.executable, str(root / COMMANDS[trainer if name == "controller" else name]), task, "--run", str(run)]
    words += ["--ranks", "1"] if name == "evaluate" and ranks == 1 else []  # else it would take all cores
    started, tries, code = time.monotonic(), 0, -1
    while code and tries <= PATIENCE:
        before = made_so_far(run / name)
        code = run_words(words, ranks)
        if code in FOR_GOOD:
            break
        if code:
            tries = 0 if made_so_far(run / name) != before else tries + 1
            next_step = f"starting it again ({tries} of {PATIENCE})" if tries else "it got on, starting it again"
            print(f"{name}: stopped with exit code {code}{f'; {next_step}' if tries <= PATIENCE else ''}", file=sys.stderr, flush=True)
    if code:
        print(f"{name}: stopped with exit code {code}{'' if code == 2 else '; the same command goes on from here'}", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)
    print(f"{name}: took {time.monotonic() - started:.0f} s", flush=True)


def run_words(words: list[str], ranks: int) -> int:
    """Run a command to its end and return its exit code; asked to stop, it is asked to stop in its turn, and the code is RESUME."""
    asked: list[int] = []
    children: list[subprocess.Popen] = []

    def hand_on(number: int, frame: object) -> None:
        asked.append(number)
        for child in children:
            child.send_signal(signal.SIGUSR1 if ranks > 1 else number)  # mpirun hands this one on to all ranks

    with handled(hand_on):
        child = subprocess.Popen(words, env=os.environ | ({SHOW: "1"} if sys.stderr.isatty() else {}))
        children.append(child)
        if asked:  # before there was a child to hand it on to
            child.terminate()
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.wait()  # the terminal told it, too
            raise
    return RESUME if asked else code  # though it may have ended by itself in that moment: what comes next is not to begin


def made_so_far(folder: Path) -> set[tuple[str, int]]:
    """What a stage would go on from: its checkpoints, episodes and so on, and how many generations and scored episodes are written down.
    (Not its log: that is written again at each start.)"""
    counted = [path for path in (folder / "fitness.jsonl", *folder.glob("part-*.jsonl")) if path.exists()]
    rows = {(path.name, path.read_bytes().count(b"\n")) for path in counted}
    return rows | {(str(path), 0) for path in folder.rglob("*.npz") if not path.name.startswith(".")}


def check_device(settings: Settings) -> None:
    """Raise UserError now, and not when C's turn comes after hours, if the settings ask for a GPU that is not there."""
    if settings.controller.device == "gpu" and not has_gpu():
        raise UserError("controller.device is gpu, but TensorFlow finds none: take cpu")


def ranks_of(name: str, settings: Settings, ranks: int) -> int:
    """How many processes run a stage: one where all cores, or the only GPU, are that process's own."""
    alone = name == "controller" and (settings.controller.device == "gpu" or settings.trainer == "actor_critic")
    return ranks if name in ON_RANKS and not alone else 1


def main() -> None:
    new = parser(__doc__ or "", None)
    new.add_argument("--ranks", type=int, default=available_cores(), metavar="int", help="MPI ranks (default: one for each core)")
    new.add_argument("--no-estimate", action="store_true", help="start at once, without measuring this machine first")
    new.add_argument("--temperatures", metavar="LIST", help="evolve a C at each of these temperatures, such as 0.5,1.0,1.15")
    new.add_argument("--table", action="store_true", help="evolve a C for each row of the paper's table")
    new.add_argument("--es-seeds", metavar="LIST", help="do that by several evolutions, with these seeds, such as 1,2,3")
    new.add_argument("--rounds", type=int, metavar="int", help="so many rounds of the iterative procedure (paper 5)")
    parsed = new.parse_args()
    if parsed.ranks < 1:
        raise UserError(f"--ranks is {parsed.ranks}: it must be at least 1")
    mpirun(parsed.ranks)
    task, path, settings = resolve(parsed, None)
    check_device(settings)
    if settings.trainer == "actor_critic":
        check_actor(task, settings)
    if settings.controller.start:
        from controller.train import check_start

        check_start(settings)
    asked = parsed.table or parsed.temperatures is not None or parsed.es_seeds is not None
    if parsed.table and not settings.is_papers:
        raise UserError("--table is the paper's, of its own memory and trainer: leave out --memory and --trainer, or --table")
    if parsed.es_seeds is not None and settings.trainer != "cmaes":
        raise UserError("--es-seeds are those of CMA-ES: give --trainer actor_critic another --seed, in another --run")
    of_rounds = given(parsed, SECTIONS["rounds"], flag_prefix(None, "rounds"))
    if of_rounds and parsed.rounds is None:
        check_rounds(settings)
        flag = flag_name(flag_prefix(None, "rounds") + next(iter(of_rounds)))
        raise UserError(f"{flag} is of later rounds: say how many there are to be, such as --rounds 2, or leave it out")
    if parsed.rounds is not None:
        if asked:
            raise UserError("--rounds are of one C: leave out --table, --temperatures and --es-seeds, or --rounds")
        run_rounds(task, plan_rounds(path, settings, parsed.rounds), parsed.ranks, not parsed.no_estimate)
        return
    estimate = not parsed.no_estimate
    if asked:
        plan = plan_studies(path, settings, parsed.temperatures, parsed.table, parsed.es_seeds)
        done = run_studies(task, path, settings, plan, parsed.ranks, estimate)
    else:
        done = run_to_report(task, path, settings, parsed.ranks, estimate)
    if done:
        print(f"finished: see {done}")
        print(f"a page on which to watch and to play its dream: {spoken('web')} {task.word} --run {path}")


def run_to_report(task: Task, path: Path, settings: Settings, ranks: int, estimate: bool, title: str = "") -> Path | None:
    """Run all that waits of a run, to its report, whose path is returned; None if it was finished already, which is said.

    Args:
        estimate: say first how long it takes here.
        title: what lines about it begin with.
    """
    waiting, report = waiting_stages(path, settings, STAGES), path / "report" / "report.md"
    if not waiting and report.exists():
        print(f"{title}{path} is finished: see {report}", flush=True)
        return None
    run_waiting(task, path, settings, [(path, name) for name in (*waiting, "report")], ranks, estimate, title)
    return report


def run_studies(task: Task, path: Path, settings: Settings, plan: list[tuple[Path, Settings]], ranks: int, estimate: bool) -> Path:
    """Run what a run and its studies (controller/results/studies.py) have not made yet; returns the path of their tables."""
    shared = waiting_stages(path, settings, SHARED)
    for study, its in plan:
        link_stages(path, settings, study, its)
    own = [(study, name) for study, its in plan for name in waiting_stages(study, its, OWN)]
    run_waiting(task, path, settings, [*((path, name) for name in shared), *own], ranks, estimate)
    finish_studies(task, path, settings)
    return path / STUDIES / f"{task.name}.md"


def run_waiting(
    task: Task, path: Path, settings: Settings, stages: list[tuple[Path, str]], ranks: int, estimate: bool, title: str = ""
) -> None:
    """Run stages, each of a run's directory: that of `path` and its studies."""
    names = [name for _, name in stages if name != "report"]
    check_starts(settings, names)
    check_disk(task, settings, path, [name for folder, name in stages if folder == path and name != "report"])
    if names and estimate:
        print(describe(task, settings, measure([task.word, "--run", str(path)]), ranks, names, path), flush=True)
    to_do = [name if folder == path else f"{name} of {folder.name}" for folder, name in stages]
    print(f"{title}to do in {path}: {', '.join(to_do) or 'nothing'}", flush=True)
    for folder, name in stages:
        run_stage(name, task.word, folder, ranks_of(name, settings, ranks), settings.trainer)


def run_rounds(task: Task, plan: list[tuple[Path, Settings]], ranks: int, estimate: bool) -> None:
    """Run all rounds, each to its report, and put them beside each other (controller/rounds.py)."""
    for number, (path, settings) in enumerate(plan, start=1):
        run_to_report(task, path, settings, ranks, estimate, f"round {number} of {len(plan)}: ")
    root = Path(__file__).resolve().parents[1]
    held_out, its = held_out_run(plan)
    if waiting_stages(held_out, its, ["extract"]):
        run_stage("extract", task.word, held_out, ranks, its.trainer)
    for run, recordings, target in figures_wanted(task, plan, held_out):
        words = [task.word, "--run", str(run), "--recordings", str(recordings), "--json", str(target)]
        words += ["--episodes", str(plan[0][1].rounds.held_out)]
        must_run([sys.executable, str(root / "rnn" / "evaluate.py"), *words], 1)
    print(f"finished: see {write_rounds(task, plan)}")


def must_run(words: list[str], ranks: int) -> None:
    """Run a command to its end; its failure is this command's."""
    code = run_words(words, ranks)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def finish_studies(task: Task, path: Path, settings: Settings) -> None:
    """Show and write the paper's tables with ours beside them, and make the run's report again, where it has one."""
    root = Path(__file__).resolve().parents[1]
    words = [sys.executable, str(root / "controller" / "verify.py"), task.word, "--run", str(path), "--out", str(path / STUDIES)]
    if subprocess.run(words, check=False).returncode > 1:  # 1: some scores are refused, which it said
        sys.exit(2)
    if (path / "report" / "report.md").exists() and not waiting_stages(path, settings, STAGES):
        run_stage("report", task.word, path, 1, settings.trainer)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run_command(main)
