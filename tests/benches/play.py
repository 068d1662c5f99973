"""Benchmarks of what plays on one core: the worlds, the agent, the dream, recording and encoding (see tests/bench.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from env.tasks import Task, get_task
from tests.benches.data import Data

if TYPE_CHECKING:
    import keras

    from env.rollout import Job

REPEATS = 5
DREAM_STEPS = 1000
ZOOM = 60  # steps until CarRacing's opening zoom is over
Figures = dict[str, float]


def median_rate(work: Callable[[], int], repeats: int = REPEATS) -> float:
    """Units of work a second: the median of `repeats` calls after one to warm up."""
    work()
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        units = work()
        rates.append(units / (time.perf_counter() - started))
    return float(np.median(rates))


def bench_gemm(data: Data) -> Figures:
    """The limit of one core: GFLOP/s of a float32 product of 1024 x 1024 matrices."""
    import tensorflow as tf

    a = tf.random.stateless_normal((1024, 1024), [1, 2])
    product = tf.function(lambda x: tf.matmul(x, x))

    def multiply() -> int:
        for _ in range(10):
            product(a).numpy()
        return 10

    return {"gemm_gflops_core": median_rate(multiply) * 2 * 1024**3 / 1e9}


def bench_world(data: Data) -> Figures:
    """Steps a second of CarRacing alone, driven as the shipped agent drives (its actions are taken down before), resets and
    the opening zoom left out: physics, drawing, crop and resize, with our drawing, with gymnasium's picture as we draw it, and
    with gymnasium's own drawing."""
    from gymnasium.envs.box2d.car_racing import CarRacing as GymnasiumCarRacing

    from env.worlds.carracing import CarRacing, process

    class Gymnasiums(GymnasiumCarRacing):
        """gymnasium's world and drawing, with our crop and resize."""

        def _render(self, mode: str) -> Any:
            return process(super()._render(mode))

    makers = {"fast": CarRacing, "official": partial(CarRacing, "official"), "gymnasium": partial(Gymnasiums, lap_complete_percent=1.0)}
    drive = data.driven()
    rates = {}
    for render, steps in (("fast", len(drive.actions) - ZOOM), ("official", 200), ("gymnasium", 100)):
        world = makers[render]()

        def work() -> float:
            world.reset(seed=drive.seed)
            for action in drive.actions[:ZOOM]:
                world.step(action)
            started = time.perf_counter()
            for action in drive.actions[ZOOM : ZOOM + steps]:
                world.step(action)
            return steps / (time.perf_counter() - started)

        work()
        rates[render] = float(np.median([work() for _ in range(REPEATS)]))
    return {"world_steps_per_s_core": rates["fast"], "world_official_steps_per_s_core": rates["official"]} | {
        "world_gymnasium_steps_per_s_core": rates["gymnasium"]
    }


def bench_held(data: Data) -> Figures:
    """Frames a second of Doom alone, random actions held for four frames: only those that are seen drawn, and all of them."""
    from env.worlds.doom import TakeCover
    from env.worlds.held import Held

    class AllDrawn(Held):
        def _draw(self, whether: bool) -> None:
            super()._draw(True)

    figures = {}
    for render in ("fast", "official"):
        for name, kind in (("", Held), ("_all_drawn", AllDrawn)):
            world = kind(TakeCover(render), 4, 2100)

            def work() -> int:
                rng, frames, over = np.random.default_rng(0), 0, False
                world.reset(seed=1)
                while not over:
                    _, lived, over, *_ = world.step(rng.uniform(-1, 1, 1))
                    frames += int(lived)
                return frames

            figures[f"held_doom_{render}{name}_frames_per_s_core"] = median_rate(work)
            world.close()
    return figures


def play_loop(dtype: str, slots: int, max_steps: int, repeats: int, z_size: int | None = None) -> float:
    """Steps a second of V + M + C + world in `slots` slots, resets included: the shipped agent, or one with fresh V and M of
    another z size."""
    from controller.agent import load_agent, make_agent
    from env.rollout import Job, WorldLanes, Worlds, rollout
    from env.run.weights import shipped_controller
    from rnn.memory import make_memory
    from vae.vae import ConvVAE

    task = get_task("carracing")
    paper = task.scales["paper"]
    world = replace(paper.world, max_steps=max_steps)
    settings = replace(paper, world=world, controller=replace(paper.controller, slots=slots, dtype=dtype))
    if z_size is None:
        agent, _ = load_agent(task, settings, Path(), shipped_controller(task.name))
    else:
        settings = replace(settings, vae=replace(settings.vae, z_size=z_size))
        agent = make_agent(task, settings, ConvVAE(z_size, dtype=dtype), make_memory(task, settings, "float32"))
        agent.set_candidates(np.zeros((1, agent.policy.size)))
    worlds, jobs = Worlds.of(task, world), [Job(i, 0, i) for i in range(slots)]
    rate = median_rate(lambda: sum(result.length for result in rollout(WorldLanes(worlds, agent), jobs)), repeats)
    worlds.close()
    return rate


def bench_loop(data: Data) -> Figures:
    """Steps a second of the whole agent, V + M + C + world, resets included, with the shipped weights, episodes of 500 steps, and
    the slots of scale `day`, which is meant for machines of few cores."""
    slots = get_task("carracing").scales["day"].controller.slots
    names = {"float32": "float32", "mixed_bfloat16": "bfloat16"}
    return {f"loop_{name}_steps_per_s_core": play_loop(dtype, slots, 500, 3) for dtype, name in names.items()}


def dream_rate(data: Data, dtype: str, lanes: int, jobs: list[Job], candidates: np.ndarray, dream_steps: int) -> float:
    """Steps a second of the dreams `jobs` in `lanes` lanes, only those of living dreams counted, from the first one's start to
    the last one's end. More than 128 dreams are dreamt once, after a warm-up with a tenth of them."""
    from controller.simulate import dream_simulator

    task = get_task("doom")
    paper = task.scales["paper"]
    settings = replace(paper, controller=replace(paper.controller, lanes=lanes, dtype=dtype, dream_steps=dream_steps))
    simulate = dream_simulator(task, settings, data.doom_run).play
    if len(jobs) <= 128:
        return median_rate(lambda: sum(result.length for result in simulate(candidates, jobs)), 3)
    list(simulate(candidates, jobs[: len(jobs) // 10]))
    started = time.perf_counter()
    return sum(result.length for result in simulate(candidates, jobs)) / (time.perf_counter() - started)


def trained(data: Data, task: Task) -> Path:
    """The file of the shipped C, or, in Doom, of the one of --run."""
    from env.run.weights import controller_path, shipped_controller

    run = data.doom_run if task.name == "doom" else None
    return shipped_controller(task.name) if run is None else controller_path(task.name, run, True)


def population(data: Data, task: Task, size: int, sigma: float = 0.03) -> np.ndarray:
    """`size` candidates around the trained C, at a step size that is typical of a late evolution."""
    from env.run.files import load_arrays

    mean = load_arrays(trained(data, task))[0]["params"].astype(float)
    return mean + sigma * np.random.default_rng(0).standard_normal((size, len(mean)))


def bench_dream(data: Data) -> Figures:
    """Steps a second of Doom's dream with the shipped weights, in dreams of at most DREAM_STEPS: a population of 64 with 16
    episodes each, and as many dreams as lanes for 1, 64 and 1024 lanes. (A single dream is computed in 16 lanes.)"""
    from env.rollout import Job

    candidates, lanes = population(data, get_task("doom"), 64), get_task("doom").scales["paper"].controller.lanes
    rates = {}
    for dtype in ("float32", "mixed_bfloat16"):
        name = dtype.removeprefix("mixed_")
        jobs = [Job(i, i // 16, i % 16) for i in range(1024)]
        rates[f"dream_{name}_steps_per_s_core"] = dream_rate(data, dtype, lanes, jobs, candidates, DREAM_STEPS)
        for lanes_now in (1, 64, 1024):
            jobs = [Job(i, i % 64, i) for i in range(lanes_now)]
            rates[f"dream_{name}_{lanes_now}_lanes_steps_per_s_core"] = dream_rate(data, dtype, lanes_now, jobs, candidates, DREAM_STEPS)
    return rates


def bench_extract(data: Data) -> Figures:
    """Frames a second recorded to disk with CarRacing's random policy, drawing, policy, compression and writing included."""
    data.recorded()
    return {"extract_frames_per_s_core": float(np.median(data.extract_rates[1:]))}


def bench_encode(data: Data) -> Figures:
    """Frames a second from recordings on disk to latents on disk, with the shipped V."""
    data.encoded()
    return {"encode_frames_per_s_core": float(np.median(data.encode_rates[1:]))}


def layer_flops(layers: list[keras.layers.Layer], x: np.ndarray) -> float:
    """Floating-point operations of a frame or vector through convolutional and dense layers; a product and its sum are two."""
    import keras

    flops = 0.0
    for layer in layers:
        y = layer(x)
        if hasattr(layer, "kernel"):
            places = (x if isinstance(layer, keras.layers.Conv2DTranspose) else y).shape[1:-1]
            flops += 2.0 * np.prod(layer.kernel.shape) * np.prod(places)
        x = y
    return flops


def flops() -> Figures:
    """Floating-point operations, of matrix products and convolutions alone, for a unit of each figure."""
    from rnn.memory import make_memory
    from vae.vae import ConvVAE

    def step(task: Task) -> tuple[float, float]:
        rnn = make_memory(task, task.scales["paper"], "float32")
        return 2.0 * np.prod(rnn.lstm.kernel.shape), 2.0 * np.prod(rnn.output_layer.kernel.shape)

    vae = ConvVAE()
    heads = 2 * 2.0 * 1024 * vae.z_size
    encode = layer_flops(vae.encoder_layers, np.zeros((1, 64, 64, 3), np.float32)) + heads
    decode = layer_flops(vae.decoder_layers, np.zeros((1, vae.z_size), np.float32))
    (lstm, output), (doom_lstm, doom_output) = step(get_task("carracing")), step(get_task("doom"))
    table = {"encode_frames_per_s_core": encode}
    for name in ("float32", "bfloat16"):
        table[f"loop_{name}_steps_per_s_core"] = encode + lstm
        table[f"vae_train_{name}_frames_per_s"] = 3 * (encode + decode)  # forwards, and backwards to inputs and to weights
        for lanes in ("", "1_lanes_", "64_lanes_", "1024_lanes_"):
            table[f"dream_{name}_{lanes}steps_per_s_core"] = doom_lstm + doom_output
        table[f"rnn_doom_train_{name}_steps_per_s"] = 3 * (doom_lstm + doom_output)
    return table | {"rnn_train_steps_per_s": 3 * (lstm + output)}
