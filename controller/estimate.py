"""Measure this machine for a few seconds and say how long each stage of a run will take on it.

    python controller/estimate.py carracing --scale day
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from env.recordings import pooled_frames
from env.run.command import duration, parser, processes, resolve, run_command
from env.run.compute import available_cores, limit_threads, start_tensorflow
from env.run.errors import UserError
from env.run.settings import SCALES, STAGES, Settings
from env.tasks import Task, system

if TYPE_CHECKING:
    from env.rollout import Player
    from rnn.memory import Imagined, Memory

PROBE_STEPS = 150
UPDATES = "updates"  # among the rates: training steps of an actor-critic a second
STARTUP = "startup"  # among the rates: seconds before a stage's work begins


def rate(work: Callable[[], int], seconds: float = 1.5) -> float:
    """Units of work a second, over at least `seconds`, after one call to warm up."""
    work()
    started, units = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        units += work()
    return units / (time.monotonic() - started)


def measure_worlds(task: Task, settings: Settings) -> dict[str, float]:
    """Steps a second on one core: recording, the evolution of C in the real world or in dreams, and scoring."""
    limit_threads()
    from controller.agent import make_agent
    from env.random_policy import random_player
    from env.rollout import Job, WorldLanes, Worlds, rollout
    from rnn.memory import make_memory
    from vae.vae import ConvVAE

    vae = ConvVAE(settings.vae.z_size, dtype=settings.controller.dtype)
    memory = make_memory(task, settings, "float32")
    world = replace(settings.world, max_steps=PROBE_STEPS)
    agent = make_agent(task, replace(settings, world=world), vae, memory)

    def steps(worlds: Worlds, player: Player) -> int:
        jobs = [Job(i, 0, i) for i in range(player.slots)]
        return sum(result.length for result in rollout(WorldLanes(worlds, player), jobs))

    own, scoring = (Worlds.of(task, replace(world, render=render)) for render in (settings.world.render, settings.evaluate.render))
    policy = settings.extract.policy
    policy = "uniform" if policy == "mirrored" else policy  # to copy an episode takes less than to play one
    recorder = agent if policy == "controller" else random_player(policy, task, settings.vae.z_size)
    rates = {"extract": rate(lambda: steps(own, recorder)), "evaluate": rate(lambda: steps(scoring, agent))}
    in_dream = settings.controller.world == "dream"
    rates["controller"] = measure_dream(task, settings) if in_dream else rate(lambda: steps(own, agent))
    return rates


def measure_updates(task: Task, settings: Settings) -> float:
    """Training steps of actor and critic a second, and of M if the real world is played, on all cores."""
    import tensorflow as tf

    from controller.actor_critic import ActorCritic
    from controller.agent import make_policy
    from controller.learning import make_step
    from rnn.memory import as_batch, make_memory, told
    from rnn.train import make_optimizer

    c, options = settings.controller, settings.actor_critic
    memory, optimizer = make_memory(task, settings, settings.of_memory.dtype), None
    if c.world == "real":
        optimizer = make_optimizer(settings.of_memory)
        optimizer.build(memory.learning)
    learner = ActorCritic(make_policy(task, settings, memory), task.actions, options, c.features, c.temperature)
    step, rows = make_step(memory, optimizer, learner, settings), (options.batch, options.window)
    latents = np.zeros((*rows, settings.vae.z_size), np.float16)
    actions = np.zeros((*rows, task.actions.size), np.float32)
    parts = [tf.constant(part) for part in as_batch(latents, latents, actions, privileged=told(task, settings))]

    def work() -> int:
        step(*parts, tf.constant([0, 0]))["actor"].numpy()
        return 1

    return rate(work)


class Immortal:
    """A memory in whose dreams nobody dies: an untrained M, of which nothing but its speed is known, would end them at once."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def imagine(self, *arguments: Any) -> Imagined:
        """M's answer, but that life goes on."""
        answer = self._memory.imagine(*arguments)
        return answer._replace(over=answer.goes_on < 0)


def measure_dream(task: Task, settings: Settings) -> float:
    """Dreamt steps a second on one core."""
    from controller.agent import make_policy
    from controller.simulate import dream_lanes
    from env.rollout import Job, rollout
    from rnn.dream import Beginnings
    from rnn.memory import make_memory

    settings = replace(settings, controller=replace(settings.controller, dream_steps=50))
    c, memory = settings.controller, Immortal(make_memory(task, settings, settings.controller.dtype))
    size = settings.vae.z_size
    beginnings = Beginnings(np.random.default_rng(0).standard_normal((10, size)), np.zeros((10, size)))
    lanes, jobs = dream_lanes(task, settings, memory, beginnings), [Job(i, 0, i) for i in range(c.lanes)]
    lanes.set_candidates(np.zeros((1, make_policy(task, settings, memory).size)))
    return rate(lambda: sum(result.length for result in rollout(lanes, jobs)))


def measure_training(task: Task, settings: Settings) -> dict[str, float]:
    """On all cores: frames a second that train V and that V encodes, and time steps a second that train M; and the seconds
    that starting up and building V and M take, as each stage must."""
    started = time.monotonic()
    start_tensorflow()
    import tensorflow as tf

    from env.run.training import adam
    from rnn.memory import as_batch, make_memory, told
    from rnn.train import make_carried, make_optimizer
    from rnn.train import make_step as rnn_step
    from vae.train import make_step as vae_step
    from vae.vae import FRAME, ConvVAE

    rng = np.random.default_rng(0)
    z_size, batch = settings.vae.z_size, settings.vae.batch
    frames = tf.constant(rng.integers(0, 256, (batch, *FRAME), np.uint8))
    vae = ConvVAE(z_size, settings.vae.kl_tolerance, settings.vae.dtype)
    optimizer = adam(settings.vae.learning_rate)
    optimizer.build(vae.trainable_variables)
    train_v, encode = vae_step(vae, optimizer), vae.fixed_encoder(batch)
    seed = tf.constant([0, 0])

    sequences, length = min(settings.of_memory.batch, 20), 100
    probe = replace(settings.of_memory, batch=sequences)
    latents = rng.standard_normal((sequences, length, z_size)).astype(np.float16)
    actions = np.zeros((sequences, length, task.actions.size), np.float32)
    parts = as_batch(latents, latents * 0, actions, privileged=told(task, settings))
    memory, rnn_optimizer = make_memory(task, settings, probe.dtype), make_optimizer(probe)
    rnn_optimizer.build(memory.learning)
    train_m = rnn_step(memory, rnn_optimizer, probe.grad_clip, make_carried(memory, probe))

    def count(units: int, terms: object) -> int:
        tf.nest.map_structure(lambda t: t.numpy(), terms)
        return units

    startup = time.monotonic() - started
    updates = {UPDATES: measure_updates(task, settings)} if settings.trainer == "actor_critic" else {}
    return updates | {
        STARTUP: startup,
        "vae": rate(lambda: count(batch, train_v(frames, seed))),
        "encode": rate(lambda: count(batch, encode(frames))),
        "rnn": rate(lambda: count(sequences * length, train_m(*map(tf.constant, parts), seed))),
    }


def amounts(task: Task, settings: Settings, run: Path = Path()) -> dict[str, float]:
    """Each stage's whole work: steps, frames or time steps; `run` is where a pool is looked for, too."""
    usual = task.played_steps if settings.extract.policy == "controller" else task.recorded_steps
    m, recorded = settings.of_memory, settings.world.steps(usual)
    frames = settings.extract.episodes * recorded
    others = pooled_frames(run, settings)
    vae_frames = (frames + others) * settings.vae.epochs
    if settings.vae.limit_steps:
        vae_frames = min(vae_frames, settings.vae.limit_steps * settings.vae.batch)
    c, options, played = settings.controller, settings.actor_critic, settings.world.steps(task.played_steps)
    evolved = min(played, settings.dream_steps) if c.world == "dream" else played
    scorings, trained = -(-c.generations // c.eval_every), float(c.generations * c.population * c.episodes * evolved)
    if settings.trainer == "actor_critic":
        scorings = -(-options.updates // options.eval_every)
        learned = options.updates * options.batch * options.window
        # A ratio of 0 is one update for each round.
        steps = learned / options.train_ratio if options.train_ratio else options.updates * options.round_episodes * played
        trained = steps if c.world == "real" else 0.0
    return {
        "extract": frames,
        "vae": 0 if settings.vae.source else vae_frames,
        "encode": frames + others,
        "rnn": 0 if m.source else m.steps * m.batch * (m.window or recorded),
        "controller": trained + scorings * c.eval_episodes * evolved,
        "evaluate": settings.evaluate.episodes * played,
    }


def stage_seconds(rates: dict[str, float], task: Task, settings: Settings, ranks: int, run: Path = Path()) -> dict[str, float]:
    """Seconds of each stage with `ranks` processes, one a core, where a stage is shared by ranks."""
    alone = settings.trainer == "actor_critic"
    shared, ranks = {"extract", "evaluate"} | (set() if alone else {"controller"}), min(ranks, available_cores())
    seconds = {name: work / rates[name] / (ranks if name in shared else 1) for name, work in amounts(task, settings, run).items()}
    if alone:
        seconds["controller"] += settings.actor_critic.updates / rates[UPDATES]
    return seconds


def measure(arguments: list[str]) -> dict[str, float]:
    """All rates, each part measured by a process of its own, since a process settles its threads once.

    Args:
        arguments: the command line that names the task and the settings.
    """
    rates: dict[str, float] = {}
    for part in ("worlds", "training"):
        command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--part", part]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise UserError(f"measuring this machine failed: {answer.stderr.strip().splitlines()[-1:]}; go on with --no-estimate")
        rates |= json.loads(answer.stdout.splitlines()[-1])
    return rates


CHECKPOINTS = 200e6  # bytes that the checkpoints, weights and logs of a run take, about


def disk_bytes(task: Task, settings: Settings, run: Path, waiting: Sequence[str] = STAGES) -> float:
    """What the waiting stages of a run will take on disk, about: recordings and latents that are not there yet, and checkpoints."""
    a_frame = {"extract": task.frame_bytes, "encode": 4 * settings.vae.z_size + 4 * (task.actions.size + 2)}
    folders = {"extract": run / "extract" / "episodes", "encode": run / "encode" / "latents"}
    an_episode, whole = amounts(task, settings, run)["extract"] / settings.extract.episodes, 0.0
    for name in set(a_frame) & set(waiting):
        missing = settings.extract.episodes - len(list(folders[name].glob("*.npz")))
        whole += max(0, missing) * an_episode * a_frame[name]
    if "encode" in waiting:
        whole += pooled_frames(run, settings) * a_frame["encode"]
    return whole + CHECKPOINTS * bool({"vae", "rnn", "controller"} & set(waiting))


def check_disk(task: Task, settings: Settings, run: Path, waiting: Sequence[str] = STAGES) -> None:
    """Raise UserError now, and not after hours, when what waits will not fit on the run's disk."""
    there = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    needed, free = disk_bytes(task, settings, run, waiting), shutil.disk_usage(there).free
    if needed > free:
        what = f"{run} will take about {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free there"
        raise UserError(f"{what}: make room, choose a --run on another disk, or record fewer --extract-episodes")


def describe(
    task: Task, settings: Settings, rates: dict[str, float], ranks: int, stages: Sequence[str] = STAGES, run: Path = Path()
) -> str:
    """What will run, how long each of the waiting `stages` takes here, one of them as often as it is named, and how
    long the smaller scales would take, once each."""
    work = amounts(task, settings, run)
    often = Counter(stages)
    seconds = {name: value * often[name] for name, value in stage_seconds(rates, task, settings, ranks, run).items() if name in often}
    units = {"vae": "frames", "encode": "frames", "rnn": "time steps"}
    lines = [f"{task.shown} at scale {settings.scale} on {processes(ranks)}, as measured on this machine just now:"]
    for name, value in seconds.items():
        lines.append(f"  {name:<11}{work[name] * often[name]:>15,.0f} {units.get(name, 'steps'):<11}{duration(value):>9}")
    startup = rates[STARTUP] * (len(stages) + 1)
    whole = duration(sum(seconds.values()) + startup)
    lines.append(f"  in all, with {duration(startup)} for starting the stages and for the report: {whole}")
    for scale in SCALES[: SCALES.index(settings.scale)]:
        of_scale = system(task.scales[scale], settings.memory, settings.trainer)
        smaller = sum(stage_seconds(rates, task, of_scale, ranks, run).values()) + startup
        lines.append(f"  a smaller one: --scale {scale}, {duration(smaller)}")
    return "\n".join(lines)


def main() -> None:
    new = parser(__doc__ or "", None)
    new.add_argument("--part", choices=("worlds", "training"), help=argparse.SUPPRESS)
    parsed = new.parse_args()
    task, run, settings = resolve(parsed, None)
    if parsed.part:
        print(json.dumps((measure_worlds if parsed.part == "worlds" else measure_training)(task, settings)))
    else:
        print(describe(task, settings, measure(sys.argv[1:]), available_cores(), run=run))


if __name__ == "__main__":
    run_command(main)
