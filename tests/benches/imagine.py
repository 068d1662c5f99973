"""Benchmarks of the second system on all cores: M's posterior and imagination, and the training step of M, actor and critic (see
tests/bench.py). As a command of its own, for a process settles its threads once:

    python tests/benches/imagine.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from env.run.compute import start_tensorflow
from env.run.errors import UserError
from env.run.settings import Settings
from env.tasks import get_task, system
from tests.benches.data import Data

if TYPE_CHECKING:
    from rnn.rssm import RSSM

ROWS, WINDOW, HORIZON, STARTS = 16, 64, 15, 256


def settings_of_bench() -> Settings:
    """CarRacing's, with batches of 16 sequences of 64 frames, and 256 dreams of 15 steps from their last frames."""
    settings = system(get_task("carracing").scales["paper"], "rssm", "actor_critic")
    options = dataclasses.replace(settings.actor_critic, batch=ROWS, window=WINDOW, horizon=HORIZON, starts=STARTS // ROWS)
    return dataclasses.replace(settings, actor_critic=options)


def measure() -> dict[str, float]:
    """All figures, in a process whose TensorFlow has all cores."""
    start_tensorflow()
    import tensorflow as tf

    from controller.actor_critic import ActorCritic
    from controller.agent import make_policy
    from controller.learning import make_step
    from rnn.memory import Batch, as_batch, make_memory
    from rnn.rssm import State
    from rnn.train import make_optimizer
    from tests.benches.play import median_rate

    task, settings, rng = get_task("carracing"), settings_of_bench(), np.random.default_rng(0)
    memory: Any = make_memory(task, settings, "float32")
    learner = ActorCritic(make_policy(task, settings, memory), task.actions, settings.actor_critic, "zh", 1.0)

    def random(*shape: int) -> tf.Tensor:
        return tf.constant(rng.standard_normal(shape, np.float32))

    def rated(function: Callable[..., Any], arguments: tuple, units: int) -> float:
        compiled = tf.function(function, jit_compile=True)

        def work() -> int:
            compiled(*arguments).numpy()
            return units

        return median_rate(work)

    latents = rng.standard_normal((ROWS, WINDOW, settings.vae.z_size)).astype(np.float16)
    batch = tuple(map(tf.constant, as_batch(latents, latents * 0, rng.standard_normal((ROWS, WINDOW, 3)).astype(np.float32))))
    noise = random(ROWS, WINDOW, memory.sample_noise)
    starts = (random(STARTS, memory.units), random(STARTS, memory.stochastic))
    dreaming = random(HORIZON, STARTS, memory.imagine_noise + learner.actor.noise)
    figures = {
        "rssm_posterior_steps_per_s": rated(lambda *p: memory.follow(Batch(*p[:-1]), p[-1]).h[:, -1], (*batch, noise), ROWS * WINDOW),
        "rssm_imagined_steps_per_s": rated(
            lambda h, s, n: learner.dream(memory, State(h, s), n).reward, (*starts, dreaming), STARTS * HORIZON
        ),
    }
    optimizer = make_optimizer(settings.rssm)
    optimizer.build(memory.learning)
    step = make_step(memory, optimizer, learner, settings)

    def update() -> int:
        step(*batch, tf.constant([0, 0]))["actor"].numpy()
        return 3600

    return figures | {"actor_critic_updates_per_h": median_rate(update)}


def flops() -> dict[str, float]:
    """Floating-point operations of the matrix products of one step of each."""
    from controller.agent import make_policy
    from rnn.memory import make_memory

    task, settings = get_task("carracing"), settings_of_bench()
    memory: Any = make_memory(task, settings, "float32")
    recurrence, prior, heads = _products(memory)
    policy = make_policy(task, settings, memory)
    acting = 2.0 * sum(inputs * outputs for inputs, outputs in policy.layers())
    encoder = 2.0 * sum(int(np.prod(v.shape)) for v in memory.encoder.trainable_variables if len(v.shape) == 2)
    return {
        "rssm_posterior_steps_per_s": recurrence + encoder,
        "rssm_imagined_steps_per_s": recurrence - _posterior(memory) + prior + heads + acting,
    }


def _products(memory: RSSM) -> tuple[float, float, float]:
    """Of the recurrence with its posterior, of the prior, and of the heads of a dream."""

    def of(*layers: Any) -> float:
        return 2.0 * sum(int(np.prod(v.shape)) for layer in layers for v in layer.trainable_variables if len(v.shape) == 2)

    recurrence = 2.0 * sum(int(np.prod(kernel.shape)) for kernel in memory.kernels) + of(memory.action_layer)
    return recurrence, of(memory.prior), of(memory.reward, memory.goes_on)


def _posterior(memory: RSSM) -> float:
    return 2.0 * sum(int(np.prod(kernel.shape)) for kernel in (memory.kernels.posterior, memory.kernels.logits))


def bench_imagine(data: Data) -> dict[str, float]:
    """The posterior's loop, imagination, and updates of 16 x 64 frames with 256 dreams of 15 steps, on all cores."""
    from tests.benches.commands import environment

    words = [sys.executable, str(Path(__file__).resolve())]
    answer = subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
    if answer.returncode:
        raise UserError(f"the bench of imagination failed: {answer.stderr.strip().splitlines()[-1:]}")
    return json.loads(answer.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure()))
