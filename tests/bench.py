"""Benchmarks, on one core, each beside the machine's own limit measured in the same run.

    python tests/bench.py world
    python tests/bench.py all --json bench.json
    python tests/bench.py dream --run runs/doom

world: steps a second of CarRacing as the agent sees it (physics, drawing, crop, resize), with our drawing and gymnasium's.
loop: steps a second of the whole agent, V + M + C + world, with the shipped weights, in float32 and bfloat16.
dream: steps a second of Doom's dream with the shipped weights, or those of --run; only those of living dreams count: 64 candidates with
    16 episodes each, in float32 and bfloat16, and as many dreams as there are lanes, for 1, 64 and 1024 lanes.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from env.command import run_command
from env.compute import limit_threads
from env.settings import OneLineParser, UserError
from env.tasks import get_task

REPEATS = 5


def median_rate(work: Callable[[], int], repeats: int = REPEATS) -> float:
    """Units of work a second: the median of `repeats` calls after one to warm up."""
    work()
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        units = work()
        rates.append(units / (time.perf_counter() - started))
    return float(np.median(rates))


def bench_gemm() -> dict[str, float]:
    """This core's limit: GFLOP/s of a float32 product of 1024 x 1024 matrices."""
    import tensorflow as tf

    a = tf.random.stateless_normal((1024, 1024), [1, 2])
    product = tf.function(lambda x: tf.matmul(x, x))

    def multiply() -> int:
        for _ in range(10):
            product(a).numpy()
        return 10

    return {"gemm_gflops_core": median_rate(multiply) * 2 * 1024**3 / 1e9}


def bench_world(run: Path | None) -> dict[str, float]:
    """Steps a second of driving down the track, resets left out."""
    from env.carracing import CarRacing

    rates = {}
    for render, steps in (("fast", 1000), ("official", 100)):
        world = CarRacing(render=render)
        world.reset(seed=1)

        def drive(world: CarRacing = world, steps: int = steps) -> int:
            for _ in range(steps):
                world.step(np.array([0.05, 0.2, 0.0], np.float32))
            return steps

        rates[render] = median_rate(drive)
    return {"world_steps_per_s_core": rates["fast"], "world_official_steps_per_s_core": rates["official"]}


def bench_loop(run: Path | None) -> dict[str, float]:
    """Steps a second of the shipped agent in 32 slots, resets included."""
    from controller.agent import load_agent
    from controller.rollout import Job, Worlds, rollout
    from controller.weights import shipped

    task, rates = get_task("carracing"), {}
    paper = task.scales["paper"]
    world = replace(paper.world, max_steps=300)
    for name in ("float32", "mixed_bfloat16"):
        settings = replace(paper, world=world, controller=replace(paper.controller, slots=32, dtype=name))
        agent, _ = load_agent(task, settings, None, shipped("controller", task))
        jobs = [Job(i, 0, i) for i in range(32)]
        worlds = Worlds(task, world)
        rate = median_rate(lambda: sum(result.length for result in rollout(worlds, agent, jobs)))
        rates[f"loop_{name.removeprefix('mixed_')}_steps_per_s_core"] = rate
    return rates


def bench_dream(run: Path | None) -> dict[str, float]:
    """Steps a second of living dreams, from the first one's start to the last one's end."""
    from controller.rollout import Job
    from controller.simulate import dream_simulator
    from controller.weights import controller_path
    from env.files import load_arrays

    task, rates = get_task("doom"), {}
    paper = task.scales["paper"]
    mean = load_arrays(controller_path(task, run or Path(), run is not None, None))[0]["params"]
    candidates = mean + 0.03 * np.random.default_rng(0).standard_normal((64, len(mean)))  # a population around it

    def measure(dtype: str, lanes: int, jobs: list[Job], repeats: int) -> float:
        settings = replace(paper, controller=replace(paper.controller, lanes=lanes, dtype=dtype))
        simulate = dream_simulator(task, settings, run)
        return median_rate(lambda: sum(result.length for result in simulate(candidates, jobs)), repeats)

    for dtype in ("float32", "mixed_bfloat16"):
        name = dtype.removeprefix("mixed_")
        population = [Job(i, i // 16, i % 16) for i in range(1024)]
        rates[f"dream_{name}_steps_per_s_core"] = measure(dtype, paper.controller.lanes, population, 2)
        for lanes in (1, 64, 1024):
            jobs = [Job(i, i % 64, i) for i in range(lanes)]
            rates[f"dream_{name}_{lanes}_lanes_steps_per_s_core"] = measure(dtype, lanes, jobs, 2)
    return rates


BENCHES = {"world": bench_world, "loop": bench_loop, "dream": bench_dream}


def main() -> None:
    parser = OneLineParser(description=__doc__)
    parser.add_argument("bench", choices=[*BENCHES, "all"], nargs="?", default="all")
    parser.add_argument("--run", type=Path, metavar="DIR", help="take V, M and C of this run instead of the shipped ones (dream)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parsed = parser.parse_args()
    limit_threads()
    figures = bench_gemm()
    for name, bench in BENCHES.items():
        if parsed.bench == name:
            figures |= bench(parsed.run)
        elif parsed.bench == "all":
            try:
                figures |= bench(parsed.run)
            except UserError as error:
                print(f"{name}: left out: {error}")
    for key, value in figures.items():
        print(f"{key:<44}{value:>12,.1f}")
    if parsed.json:
        parsed.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
