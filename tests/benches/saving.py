"""What it costs to be able to go on after a kill (see tests/bench.py, saving)."""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from env.run.checkpoints import SHARE
from env.run.compute import available_cores
from env.run.files import read_jsonl, write_atomic
from env.run.weights import shipped_controller
from env.tasks import TASKS, Task
from tests.benches.data import Data
from tests.benches.play import Figures, dream_rate, play_loop, population

REPEATS = 7
SAVE_EVERY = 60.0  # and in V's and M's trainings after so many seconds at least (env/run/training.py, train)


def bench_saving(data: Data) -> Figures:
    """Seconds for each thing that is written, and which percentage of a day-scale run they are.

    Of C: the whole state of CMA-ES as it is written now, as it was before (pycma's pickle, on disk after each generation), and a
    generation's row of the journal. Of V and M: weights and optimizer. What 64 cores would need for a generation is calculated.
    """
    figures: Figures = {}
    for name, task in TASKS.items():
        with tempfile.TemporaryDirectory() as folder:
            generation = generation_seconds(data, task)
            state, pickled, row = evolution_seconds(task, Path(folder))
            on_64 = generation * available_cores() / 64
            vae, rnn = (training_seconds(model, Path(folder)) for model in models(task))
        figures |= {
            f"saving_{name}_generation_s": generation,
            f"saving_{name}_c_state_s": state,
            f"saving_{name}_c_row_s": row,
            f"saving_{name}_c_pickle_s": pickled,
            f"saving_{name}_c_percent": share_of_c(generation, state, row),
            f"saving_{name}_c_percent_before": 100 * pickled / (generation + pickled),
            f"saving_{name}_c_percent_64_cores": share_of_c(on_64, state, row),
            f"saving_{name}_c_percent_64_cores_before": 100 * pickled / (on_64 + pickled),
            f"saving_{name}_vae_s": vae,
            f"saving_{name}_vae_percent": 100 * vae / max(SAVE_EVERY, SHARE * vae),
            f"saving_{name}_rnn_s": rnn,
            f"saving_{name}_rnn_percent": 100 * rnn / max(SAVE_EVERY, SHARE * rnn),
        }
    return figures


def share_of_c(generation: float, state: float, row: float) -> float:
    """Percent of the time that go into the journal's rows, one for each generation, and CMA-ES's state, as often as it may be written."""
    return 100 * (state / max(generation, SHARE * state) + row / generation)


def generation_seconds(data: Data, task: Task) -> float:
    """Of scale `day` on this machine's cores: episodes as long as those of the shipped evolution's end, at the rate measured now."""
    from env.rollout import Job

    c = task.scales["day"].controller
    length = read_jsonl(shipped_controller(task.name).with_name("log.jsonl"))[-1]["mean_length"]
    if c.world == "real":
        rate = play_loop("float32", c.slots, 300, 3)
    else:
        candidates = population(data, task, c.population)
        jobs = [Job(i, i % c.population, i) for i in range(c.population * c.episodes)]
        rate = dream_rate(data, "float32", c.lanes, jobs, candidates, 300)
    return c.population * c.episodes * length / (rate * available_cores())


def evolution_seconds(task: Task, folder: Path) -> tuple[float, float, float]:
    """Seconds for CMA-ES's whole state, for the pickle that it was before, and for a generation's row."""
    from controller.es import ES
    from env.run.checkpoints import Checkpoints
    from env.run.files import JsonlLog, load_arrays

    c = task.scales["day"].controller
    size = len(load_arrays(shipped_controller(task.name))[0]["params"])
    es, rng = ES(size, c.population, c.sigma, c.l2, 1), np.random.default_rng(1)
    for _ in range(3):
        es.tell(es.ask(), rng.standard_normal(c.population))
    checkpoints, journal = Checkpoints(folder / "c", "bench"), JsonlLog(folder / "fitness.jsonl", rows=[])
    fitness = rng.standard_normal(c.population).tolist()

    state = median_seconds(lambda number: checkpoints.save(number, es.arrays()))
    row = median_seconds(lambda number: journal.append({"generation": number, "fitness": fitness}, durable=True))
    return state, median_seconds(lambda _: write_atomic(folder / "es.pkl", lambda file: pickle.dump(es, file))), row


def models(task: Task) -> tuple:
    """V and M of scale `day`."""
    from rnn.memory import make_memory
    from vae.vae import ConvVAE

    settings = task.scales["day"]
    return ConvVAE(settings.vae.z_size), make_memory(task, settings, "float32")


def training_seconds(model: object, folder: Path) -> float:
    """For a checkpoint of a model in training: its weights, and Adam's two moments."""
    from env.run.checkpoints import Checkpoints
    from env.run.training import adam, arrays_of

    optimizer = adam(1e-4)
    optimizer.build(model.trainable_variables)  # type: ignore[attr-defined]
    kept = {"model": list(model.weights), "optimizer": list(optimizer.variables)}  # type: ignore[attr-defined]
    checkpoints = Checkpoints(folder / type(model).__name__, "bench")
    return median_seconds(lambda number: checkpoints.save(number, arrays_of(kept)))


def median_seconds(write: Callable[[int], object]) -> float:
    """Of REPEATS calls, each given its number."""
    seconds = []
    for number in range(1, REPEATS + 1):
        started = time.perf_counter()
        write(number)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
