"""Shared by all tests: one quiet, one-threaded TensorFlow, and small things to test with."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forked import script

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from env.run.compute import limit_threads  # noqa: E402
from env.run.settings import Settings  # noqa: E402
from env.tasks import get_task  # noqa: E402

limit_threads()


@pytest.fixture(scope="session")
def task():
    """The CarRacing task."""
    return get_task("carracing")


@pytest.fixture()
def tiny(task) -> Settings:
    """Smoke settings made smaller still: seconds for each stage."""
    smoke = task.scales["smoke"]
    return dataclasses.replace(
        smoke,
        world=dataclasses.replace(smoke.world, max_steps=40),
        extract=dataclasses.replace(smoke.extract, episodes=4),
        rnn=dataclasses.replace(smoke.rnn, window=20, steps=4),
        controller=dataclasses.replace(smoke.controller, population=4, episodes=2, sharing=2, eval_episodes=3, slots=2),
    )


def run_python(*words: object, ranks: int = 1, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands, as a user would: `run_python("vae/train.py", "carracing")`."""
    command = [str(ROOT / str(words[0])), *map(str, words[1:])]
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    if ranks == 1:
        return script(command, environment, timeout)
    command = [str(Path(sys.executable).with_name("mpirun")), "-np", str(ranks), sys.executable, *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A log's row without what the machine decides: times, and how many cores there were."""
    return {key: value for key, value in row.items() if not key.endswith("seconds") and key != "cores"}
