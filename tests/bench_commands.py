"""Benchmarks of whole commands: the trainings of V and M, MPI ranks, and memory (see tests/bench.py).

Each runs the project's own command as a user would and reads its log; the command's start and its first steps do not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from env.files import read_jsonl
from env.rundir import REPOSITORY
from env.settings import UserError
from env.tasks import get_task
from tests.bench_data import Data
from tests.bench_play import Figures

STEPS = 100  # training steps of V


def command(*words: object, ranks: int = 0) -> list[str]:
    """The command line of one of the project's commands, under mpirun if ranks are given."""
    line = [sys.executable, str(REPOSITORY / str(words[0])), *map(str, words[1:])]
    return [str(Path(sys.executable).with_name("mpirun")), "-np", str(ranks), *line] if ranks else line


def environment() -> dict[str, str]:
    """Ours, without what keeps this process to one thread."""
    ours = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {key: value for key, value in os.environ.items() if key not in ours}


def run_to_end(*words: object, ranks: int = 0) -> float:
    """Run a command and return its peak memory in MB (of its largest process, were there several).

    Raises:
        UserError: it failed.
    """
    line = command(*words, ranks=ranks)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{' '.join(map(str, words[:2]))} failed: {said.strip().splitlines()[-1:]}")
    return usage.ru_maxrss / 1000


def rows_rate(log: Path, units: int) -> float:
    """Units a second by a training's log, the median of its rows after the second."""
    return units / float(np.median([row["seconds_per_step"] for row in read_jsonl(log)[2:]]))


def train_vae(run: Path, *flags: object, steps: int = STEPS) -> tuple[float, float]:
    """Train V on the run: frames a second, and peak memory in MB."""
    memory = run_to_end("vae/train.py", "carracing", "--run", run, "--limit-steps", steps, *flags)
    return rows_rate(run / "vae" / "log.jsonl", get_task("carracing").scales["paper"].vae.batch), memory


def bench_vae(data: Data) -> Figures:
    """Frames a second that train V on all cores, reading from disk included, as measured by the command itself."""
    names = {"float32": "float32", "mixed_bfloat16": "bfloat16"}
    return {f"vae_train_{name}_frames_per_s": train_vae(data.many(100), "--dtype", dtype)[0] for dtype, name in names.items()}


def bench_rnn(data: Data) -> Figures:
    """Time steps a second that train CarRacing's M on all cores, with batches of 100 whole episodes."""
    run, rnn = data.many(100, latents=True), get_task("carracing").scales["paper"].rnn
    memory = run_to_end("rnn/train.py", "carracing", "--run", run, "--steps", 14)
    steps = rnn.batch * (get_task("carracing").scales["paper"].world.max_steps - 1)
    return {"rnn_train_steps_per_s": rows_rate(run / "rnn" / "log.jsonl", steps), "rnn_train_rss_mb": memory}


def bench_scaling(data: Data) -> Figures:
    """How much more work 2 ranks do than one, in generations of CarRacing's C, and the share of time that ranks of a larger job
    would wait for the slowest one, simulated from real lengths of episodes."""
    seconds = {ranks: float(np.median(generation_seconds(data, ranks))) for ranks in (1, 2)}
    figures = {"ranks_speedup_2": seconds[1] / seconds[2]}
    for task in ("carracing", "doom"):
        lengths = episode_lengths(data, task)
        for ranks in (8, 64, 256):
            figures[f"idle_share_{ranks}_{task}"] = idle_share(lengths, task, ranks)
    return figures


def generation_seconds(data: Data, ranks: int) -> list[float]:
    """Seconds of generations 2 to 4 of C on `ranks` ranks; the same episodes on any number of them."""
    run = data.folder / f"ranks-{ranks}"
    flags = ["--population", 16, "--episodes", 4, "--seed-groups", 16, "--generations", 4, "--eval-every", 4, "--eval-episodes", 2]
    run_to_end("controller/train.py", "carracing", "--run", run, "--max-steps", 300, *flags, ranks=ranks)
    return [row["seconds"] for row in read_jsonl(run / "controller" / "log.jsonl")[1:]]


def episode_lengths(data: Data, task: str) -> np.ndarray:
    """Steps of 100 episodes of the shipped agent where C is evolved: on the track, or in the dream."""
    scores = REPOSITORY / "controller" / f"{task}.scores.json"
    if task == "doom" and data.doom_run is not None:
        scores = data.doom_run / "evaluate" / "scores.json"
    if not scores.exists():
        raise UserError(f"{scores} is missing: score an agent first")
    found = json.loads(scores.read_text())
    return np.array(found["dream"]["lengths"] if task == "doom" else found["lengths"])


def idle_share(lengths: np.ndarray, task: str, ranks: int, trials: int = 200) -> float:
    """The share of a generation's time that ranks wait for the slowest.

    A rank plays its share of the 64 x 16 episodes side by side and takes the next in a slot that is free, as the real code
    does; its time is the number of steps until its last one ends.
    """
    c = get_task(task).scales["paper"].controller
    side_by_side = c.lanes if c.world == "dream" else c.slots
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(trials):
        drawn = rng.choice(lengths, c.population * c.episodes)
        times = np.array([makespan(drawn[rank::ranks], side_by_side) for rank in range(ranks)])
        shares.append(1 - times.mean() / times.max())
    return float(np.mean(shares))


def makespan(lengths: np.ndarray, side_by_side: int) -> int:
    """Steps until the last of these episodes ends."""
    slots = np.zeros(min(side_by_side, len(lengths)), np.int64)
    for length in lengths:
        slots[np.argmin(slots)] += length
    return int(slots.max())


def bench_memory(data: Data) -> Figures:
    """Peak memory of V's training in MB, with 1,000 and with 100 episodes on disk, and the memory of one of 4 ranks that evolve
    C: what all of them have together, a quarter of it."""
    small, large = (train_vae(data.many(n), steps=400)[1] for n in (100, 1000))
    return {"vae_train_rss_mb": large, "vae_train_100_episodes_rss_mb": small, "rank_pss_mb": rank_memory(data, 4)}


def rank_memory(data: Data, ranks: int) -> float:
    """MB of each of `ranks` ranks in the midst of a generation, where pages that they share count once."""
    run = data.folder / "memory"
    flags = ["--population", 64, "--generations", 2, "--eval-every", 2, "--eval-episodes", 4, "--max-steps", 300]
    line = command("controller/train.py", "carracing", "--run", run, *flags, ranks=ranks)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    try:
        log = run / "controller" / "log.jsonl"
        until = time.monotonic() + 300
        while not (log.exists() and read_jsonl(log)):
            if process.poll() is not None or time.monotonic() > until:
                raise UserError("controller/train.py on 4 ranks did not get to its second generation")
            time.sleep(0.5)
        return sum(map(proportional_mb, ranks_of(str(run)))) / ranks
    finally:
        process.terminate()
        process.wait()


def ranks_of(run: str) -> list[Path]:
    """The folders in /proc of the Python processes that work on a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if run.encode() in words and b"python" in Path(words[0].decode()).name.encode():
            found.append(folder)
    return found


def proportional_mb(folder: Path) -> float:
    """A process's proportional set size: each page that n processes share counts as 1/n."""
    rollup = (folder / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1000
