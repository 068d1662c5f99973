"""Bugs that others who rebuilt this paper have made: each is put into a copy of the project, where its test must then fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT


class Bug(NamedTuple):
    """A bug: which text of which file becomes which, and the test that must find it."""

    what: str
    file: str
    right: str
    wrong: str
    test: str


SAMPLES = "tests/test_rnn.py::test_samples_have_the_theorys_mean_and_variance"
SPREAD = "tf.exp(log_std) * tf.sqrt(tf.cast(temperature, tf.float32))"
DREAMS = "tests/test_dream.py::test_one_dream_and_lanes_dream_the_same"

BUGS = [
    Bug(
        "the loss pairs a frame with the action before it",
        "rnn/rnn.py",
        "x = self._input(z, tf.cast(action, tf.float32), first",
        "x = self._input(z, tf.roll(tf.cast(action, tf.float32), 1, axis=1), first",
        "tests/test_rnn.py::test_the_loss_pairs_each_z_and_action_with_the_next_z",
    ),
    Bug(
        "the recorder keeps the frame after the action",
        "env/rollout.py",
        "self.rows.append((self.frame, action",
        "self.rows.append((frame, action",
        "tests/test_agent.py::test_recorded_episodes_pair_a_frame_with_the_action_taken_on_it",
    ),
    Bug(
        "death weighs no more than life",
        "rnn/rnn.py",
        "weight = 1.0 + (self.restart_weight - 1.0) * target",
        "weight = tf.ones_like(target)",
        "tests/test_rnn.py::test_the_loss_of_death_against_numpy",
    ),
    Bug(
        "the agent sees V's mean",
        "controller/agent.py",
        "z = self.vae.sample(mu, logvar, noise)",
        "z = mu",
        "tests/test_agent.py::test_the_agent_samples_z",
    ),
    Bug(
        "M learns V's mean",
        "rnn/rnn.py",
        "z = ConvVAE.sample(tf.cast(mu, tf.float32), tf.cast(logvar, tf.float32), noise)",
        "z = tf.cast(mu, tf.float32)",
        "tests/test_rnn.py::test_the_loss_samples_z_with_the_posteriors_deviation",
    ),
    Bug("tau is left out of the logits", "rnn/mdn.py", "Categorical(logits=logits / temperature)", "Categorical(logits=logits)", SAMPLES),
    Bug("tau is left out of the deviation", "rnn/mdn.py", f"tfd.Normal(mean, {SPREAD})", "tfd.Normal(mean, tf.exp(log_std))", SAMPLES),
    Bug("a dream's logits are not divided by tau", "rnn/mdn.py", "keepdims=True)) / temperature)", "keepdims=True)))", SAMPLES),
    Bug("a dream's deviation lacks tau", "rnn/mdn.py", f"{SPREAD} * noise", "tf.exp(log_std) * noise", SAMPLES),
    Bug("a dream's tau multiplies the deviation", "rnn/mdn.py", f"{SPREAD} * noise", "tf.exp(log_std) * temperature * noise", SAMPLES),
    Bug(
        "all dimensions share one mixture",
        "rnn/mdn.py",
        "tfd.Categorical(logits=logits / temperature)",
        "tfd.Categorical(logits=tf.repeat(logits[..., :1, :], logits.shape[-2], axis=-2) / temperature)",
        "tests/test_rnn.py::test_each_dimension_has_its_own_mixture",
    ),
    Bug(
        "all dimensions of a dream share one choice",
        "rnn/mdn.py",
        "heights = tf.cumsum(weights, axis=-1)",
        "heights = tf.repeat(tf.cumsum(weights, axis=-1)[..., 3:4, :], weights.shape[-2], axis=-2)",
        "tests/test_rnn.py::test_dreams_have_a_mixture_for_each_dimension",
    ),
    Bug(
        "dreams start in mid-episode",
        "vae/encode.py",
        'first.append((latents["mu"][0], latents["logvar"][0]))',
        'first.append((latents["mu"][-1], latents["logvar"][-1]))',
        "tests/test_encode.py",
    ),
    Bug(
        "a dream starts without restart",
        "rnn/rnn.py",
        "return State(z, zeros, zeros, tf.ones((lanes, 1)))",
        "return State(z, zeros, zeros, tf.zeros((lanes, 1)))",
        "tests/test_dream.py::test_dreams_start_from_recorded_first_frames",
    ),
    Bug("Doom's C sees [z, h]", "env/tasks.py", 'features="zch"', 'features="zh"', "tests/test_agent.py::test_dooms_loop_is_the_papers"),
    Bug(
        "Doom's C sees [z, h, c]",
        "rnn/rnn.py",
        '"zch": ("z", "c", "h")',
        '"zch": ("z", "h", "c")',
        "tests/test_agent.py::test_dooms_loop_is_the_papers",
    ),
    Bug(
        "the variance is taken for the deviation",
        "vae/vae.py",
        "return mu + tf.exp(logvar / 2) * noise",
        "return mu + tf.exp(logvar) * noise",
        "tests/test_vae.py::test_a_sample_has_the_posteriors_variance",
    ),
    Bug(
        "a dream's start takes the variance for the deviation",
        "rnn/dream.py",
        "np.exp(logvar.astype(np.float32) / 2)",
        "np.exp(logvar.astype(np.float32))",
        "tests/test_dream.py::test_dreams_start_from_recorded_first_frames",
    ),
    Bug(
        "the pixel loss is a mean",
        "vae/vae.py",
        "tf.reduce_sum(tf.square(x - y), axis=(1, 2, 3))",
        "tf.reduce_mean(tf.square(x - y), axis=(1, 2, 3))",
        "tests/test_vae.py::test_loss_equals_numpy",
    ),
    Bug(
        "M remembers what was before a restart",
        "rnn/lstm.py",
        "keep = tf.ones(tf.shape(projected)[:2]) if reset is None else 1.0 - tf.transpose(reset)",
        "keep = tf.ones(tf.shape(projected)[:2])",
        "tests/test_rnn.py::test_what_was_before_a_restart_is_forgotten",
    ),
    Bug(
        "M forgets its state between windows",
        "rnn/train.py",
        "variable.assign(value)",
        "variable.assign(value * 0)",
        "tests/test_rnn.py::test_state_is_carried_from_window_to_window_and_not_into_an_epoch",
    ),
    Bug(
        "M carries its state into the next epoch",
        "rnn/train.py",
        "kept = 1.0 - tf.cast(fresh, tf.float32)",
        "kept = 1.0",
        "tests/test_rnn.py::test_state_is_carried_from_window_to_window_and_not_into_an_epoch",
    ),
    Bug("C is trained in dreams without noise", "rnn/dream.py", "tf.constant(table.noise())", "tf.constant(table.noise() * 0)", DREAMS),
    Bug("C is trained on a state that an earlier dream left", "rnn/dream.py", "state = table.start(state)", "table.start(state)", DREAMS),
    Bug(
        "C is scored with another action than it was trained with",
        "controller/simulate.py",
        "return task.actions.of_outputs(policy.act(params, features))",
        "return policy.act(params, features) * 0.5",
        "tests/test_simulate.py::test_the_trainers_dream_is_the_shown_one",
    ),
]


def finds(bug: Bug, folder: Path) -> str:
    """Put the bug into a copy of the project and run its test: '' when it fails as it must, else what went wrong."""
    for name in ("env", "vae", "rnn", "controller", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.jsonl"))
    shutil.copy(ROOT / "setup.cfg", folder)
    file = folder / bug.file
    text = file.read_text()
    if bug.right not in text:
        return f"{bug.file} no longer has '{bug.right}'"
    file.write_text(text.replace(bug.right, bug.wrong, 1))
    command = [sys.executable, "-m", "pytest", "-x", "-m", "not slow", "-p", "no:cacheprovider", bug.test]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    shutil.rmtree(folder)
    found = result.returncode == 1 and "1 failed" in result.stdout and "AssertionError" in result.stdout
    return "" if found else f"{bug.what}: {result.stdout[-800:]}"


@pytest.mark.slow
def test_each_known_bug_is_found(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        missed = [answer for answer in pool.map(finds, BUGS, [tmp_path / str(i) for i in range(len(BUGS))]) if answer]
    assert not missed, "\n\n".join(missed)
