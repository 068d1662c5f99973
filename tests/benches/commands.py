"""Benchmarks of whole commands: the trainings of V and M, MPI ranks, and memory (see tests/bench.py).

Each runs the project's own command as a user would and reads its log; the command's start and its first steps do not count.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from env.run.errors import UserError
from env.run.files import REPOSITORY, read_jsonl
from env.run.weights import shipped
from env.tasks import get_task
from tests.benches.data import Data
from tests.benches.play import Figures, population

STEPS = 300  # training steps of V; its pool of episodes is full after half of them


def command(*words: object, ranks: int = 0) -> list[str]:
    """The command line of one of the project's commands, under mpirun if ranks are given."""
    line = [sys.executable, str(REPOSITORY / str(words[0])), *map(str, words[1:])]
    return [str(Path(sys.executable).with_name("mpirun")), "-np", str(ranks), *line] if ranks else line


def environment() -> dict[str, str]:
    """Ours, without what keeps this process to one thread. A GPU stays hidden: these are figures of cores."""
    ours = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {key: value for key, value in os.environ.items() if key not in ours}


def run_to_end(*words: object, ranks: int = 0) -> float:
    """Run a command and return its process's peak memory in MB. (What `wait` reports would include ours, from before it became
    that command.)

    Raises:
        UserError: it failed.
    """
    line = command(*words, ranks=ranks)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, peak_mb(process.pid))
        time.sleep(0.2)
    if process.returncode:
        assert process.stdout is not None
        raise UserError(f"{' '.join(map(str, words[:2]))} failed: {process.stdout.read().strip().splitlines()[-1:]}")
    return peak


def peak_mb(pid: int) -> float:
    """The most memory that a process has held so far, in MB; 0 for one that has just ended."""
    try:
        return memory_line(Path(f"/proc/{pid}/status"), "VmHWM:")
    except (OSError, StopIteration):
        return 0.0


def memory_line(path: Path, name: str) -> float:
    """MB of a line such as "VmHWM:  1234 kB"."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name)) * 1024 / 1e6


def rows_rate(log: Path, units: int) -> float:
    """Units a second by a training's log, the median of the later half of its rows."""
    rows = read_jsonl(log)
    return units / float(np.median([row["seconds_per_step"] for row in rows[len(rows) // 2 :]]))


def train_vae(run: Path, *flags: object, steps: int = STEPS) -> tuple[float, float]:
    """Train V on the run: frames a second, and peak memory in MB."""
    memory = run_to_end("vae/train.py", "carracing", "--run", run, "--limit-steps", steps, *flags)
    return rows_rate(run / "vae" / "log.jsonl", get_task("carracing").scales["paper"].vae.batch), memory


def bench_vae(data: Data) -> Figures:
    """Frames a second that train V on all cores, reading from disk included, as measured by the command itself."""
    names = {"float32": "float32", "mixed_bfloat16": "bfloat16"}
    return {f"vae_train_{name}_frames_per_s": train_vae(data.many(100), "--dtype", dtype)[0] for dtype, name in names.items()}


def bench_rnn(data: Data) -> Figures:
    """Time steps a second that train M on all cores: CarRacing's with batches of 100 whole episodes, Doom's with 100 x 500 of a stream."""
    run, rnn = data.many(100, latents=True), get_task("carracing").scales["paper"].rnn
    memory = run_to_end("rnn/train.py", "carracing", "--run", run, "--steps", 14)
    steps = rnn.batch * (get_task("carracing").scales["paper"].world.max_steps - 1)
    figures = {"rnn_train_steps_per_s": rows_rate(run / "rnn" / "log.jsonl", steps), "rnn_train_rss_mb": memory}
    doom, rnn = data.doom_latents(), get_task("doom").scales["paper"].rnn
    for dtype, name in (("float32", "float32"), ("mixed_bfloat16", "bfloat16")):
        run_to_end("rnn/train.py", "doom", "--run", doom, "--steps", 7, "--dtype", dtype)
        rate = rows_rate(doom / "rnn" / "log.jsonl", rnn.batch * (rnn.window - 1))
        figures[f"rnn_doom_train_{name}_steps_per_s"] = rate
        shutil.rmtree(doom / "rnn")
    return figures


def bench_scaling(data: Data) -> Figures:
    """How much more work 2 ranks do than one, in generations of CarRacing's C, and the share of time that ranks of a larger job
    would wait for the slowest one, simulated from real lengths of episodes."""
    seconds = {ranks: float(np.median(generation_seconds(data, ranks))) for ranks in (1, 2)}
    figures = {"ranks_speedup_2": seconds[1] / seconds[2]}
    for task in ("carracing", "doom"):
        for when, trained in (("", True), ("_first_generation", False)):
            lengths = population_lengths(data, task, trained)
            for ranks in (8, 64, 256):
                figures[f"idle_share_{ranks}_{task}{when}"] = idle_share(lengths, task, ranks)
    return figures


def generation_seconds(data: Data, ranks: int) -> list[float]:
    """Seconds of generations 2 to 4 of C on `ranks` ranks; the same episodes on any number of them."""
    run = data.folder / f"ranks-{ranks}"
    flags = ["--population", 16, "--episodes", 4, "--sharing", 1, "--generations", 4, "--eval-every", 4, "--eval-episodes", 2]
    run_to_end("controller/train.py", "carracing", "--run", run, "--max-steps", 300, *flags, ranks=ranks)
    return [row["seconds"] for row in read_jsonl(run / "controller" / "log.jsonl")[1:]]


def population_lengths(data: Data, name: str, trained: bool) -> np.ndarray:
    """Steps of each candidate's episodes where C is evolved, on the track or in the dream, int64 [candidates, episodes]: of a
    population around the trained C at its last step size, or of the first generation's."""
    from controller.simulate import make_simulator
    from env.rollout import Job

    task = get_task(name)
    settings, run = task.scales["day"], data.doom_run if name == "doom" else None
    number, episodes = (64, 4) if settings.controller.world == "dream" else (24, 2)
    log = run / "controller" / "log.jsonl" if run else shipped("controller", name, "log.jsonl")
    sigma = read_jsonl(log)[-1]["sigma"] if trained else settings.controller.sigma
    candidates = population(data, task, number, sigma)
    if not trained:
        candidates -= population(data, task, 1, 0.0)  # evolution starts from zero
    jobs = [Job(i, i // episodes, i) for i in range(number * episodes)]
    lengths = np.zeros(len(jobs), np.int64)
    for result in make_simulator(task, settings, run).play(candidates, jobs):
        lengths[result.job.index] = result.length
    return lengths.reshape(number, episodes)


def idle_share(lengths: np.ndarray, task: str, ranks: int, trials: int = 100) -> float:
    """The share of a generation's time that ranks wait for the slowest.

    A rank plays its share of the 64 x 16 episodes side by side and takes the next in a slot that is free, as the real code
    does; its time is the number of steps until its last one ends. Slots that stay empty meanwhile do not count as waiting.

    Args:
        lengths: int [candidates, episodes], from which generations are drawn, candidate by candidate.
    """
    c = get_task(task).scales["paper"].controller
    side_by_side = c.lanes if c.world == "dream" else c.slots
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(trials):
        rows = rng.integers(len(lengths), size=(c.population, 1))
        drawn = lengths[rows, rng.integers(lengths.shape[1], size=(c.population, c.episodes))].ravel()
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
    small, large = (train_vae(data.many(n), steps=200)[1] for n in (100, 1000))
    return {"vae_train_rss_mb": large, "vae_train_100_episodes_rss_mb": small, "rank_pss_mb": rank_memory(data, 4)}


def rank_memory(data: Data, ranks: int) -> float:
    """MB of each of `ranks` ranks in the midst of a generation, where pages that they share count once."""
    run = data.folder / "memory"
    flags = ["--population", 16, "--sharing", 0, "--episodes", 4, "--generations", 9, "--eval-every", 9]
    line = command("controller/train.py", "carracing", "--run", run, "--max-steps", 300, *flags, ranks=ranks)
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
    return memory_line(folder / "smaps_rollup", "Pss:")
