"""Nothing lost: what kills, fills or damages a run in its midst, and how it goes on."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, run_python, without_times
from corruptions import campaign, make_run

from controller.simulate import Simulator
from controller.train import Evolution, play_again, ranked_last
from env.rollout import Result
from env.run.checkpoints import FOLDER, KEPT, Checkpoints
from env.run.errors import UserError
from env.run.files import load_arrays, read_jsonl
from env.run.ranks import DEADLINE, STUCK, Ranks
from env.run.rundir import Run
from env.run.stopping import RESUME, Stopped
from env.run.training import train

DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "emptied": lambda data: b"",
}


def damage(path: Path, how: str) -> None:
    path.write_bytes(DAMAGES[how](path.read_bytes()))


# Checkpoints.


def three(folder: Path) -> Checkpoints:
    """Checkpoints of steps 1 to 5, of which the last are kept."""
    checkpoints = Checkpoints(folder, "mine")
    for number in range(1, 6):
        checkpoints.save(number, {"x": np.full(1000, number)}, {"note": number})
    return checkpoints


def test_the_last_checkpoints_are_kept(tmp_path):
    latest = three(tmp_path).latest()
    assert latest.number == 5 and latest.meta == {"note": 5} and (latest.arrays["x"] == 5).all()
    assert len(list((tmp_path / FOLDER).iterdir())) == KEPT == 3


@pytest.mark.parametrize("how", [*DAMAGES, "swapped", "renamed", "another's"])
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, how, capsys):
    checkpoints = three(tmp_path)
    newest, before = (tmp_path / FOLDER / f"00000000{number}.npz" for number in (5, 4))
    whole = newest.read_bytes()
    if how == "swapped":
        shutil.copyfile(before, newest)
    elif how == "renamed":
        newest.rename(tmp_path / FOLDER / "000000009.npz")
    elif how == "another's":
        Checkpoints(tmp_path, "other").save(6, {"x": np.zeros(3)})
        (tmp_path / FOLDER / "000000005.npz").unlink()
    else:
        damage(newest, how)
    latest = checkpoints.latest()
    assert latest.number == 4 and (latest.arrays["x"] == 4).all()
    said = capsys.readouterr().err
    assert said.startswith("warning: checkpoint ") and "going on from 000000004.npz" in said and len(said.splitlines()) == 1
    assert checkpoints.latest().number == 4 and not capsys.readouterr().err, "said once"
    aside = list((tmp_path / FOLDER).glob("*.damaged"))
    assert len(aside) == 1, "set aside, not deleted: it may have been a disk that was away"
    assert how != "renamed" or aside[0].read_bytes() == whole


def test_without_any_whole_checkpoint_nothing_is_begun_anew(tmp_path):
    checkpoints = three(tmp_path)
    for path in (tmp_path / FOLDER).iterdir():
        damage(path, "cut")
    with pytest.raises(UserError, match="and so are all others"):
        checkpoints.latest()
    shutil.rmtree(tmp_path / FOLDER)
    assert checkpoints.latest() is None, "there is nothing to lose"
    (tmp_path / "log.jsonl").write_text('{"step": 7}\n')
    with pytest.raises(UserError, match="has no checkpoint, but .* has rows"):
        checkpoints.latest()


# Evolution.


def evolve(evolution: Evolution, until: int) -> None:
    """Generations of a toy fitness."""
    while evolution.generation < until:
        candidates = evolution.es.ask()
        scores = -((candidates - 0.3) ** 2).sum(axis=1, keepdims=True)
        evolution.commit(evolution.tell(candidates, scores, np.ones(scores.shape, np.int64), 0.1))


@pytest.fixture()
def settings(tiny):
    return dataclasses.replace(tiny, controller=dataclasses.replace(tiny.controller, generations=100))


@pytest.fixture()
def history(settings, tmp_path):
    """The log of 9 generations at one go."""
    whole = Evolution(Run(tmp_path / "whole", settings), 7)
    evolve(whole, 9)
    whole.run.release()
    return read_jsonl(tmp_path / "whole" / "controller" / "log.jsonl")


def again(path: Path, settings) -> Evolution:
    return Evolution(Run(path, settings), 7)


def goes_on(path: Path, settings, history) -> None:
    """Opened anew, it comes to the same history."""
    evolution = again(path, settings)
    evolve(evolution, 9)
    evolution.run.release()
    assert read_jsonl(path / "controller" / "log.jsonl") == history


@pytest.mark.parametrize("file", ["log.jsonl", "fitness.jsonl", "checkpoint"])
@pytest.mark.parametrize("how", DAMAGES)
def test_an_evolution_with_a_damaged_file_goes_on_to_the_same_history(tmp_path, settings, history, file, how, capsys):
    evolution = again(tmp_path / "run", settings)
    evolution.checkpoints._took = 0.0  # a state is written at each generation
    evolve(evolution, 4)
    evolution.checkpoints._took = 1e9  # from here on no state is written
    evolve(evolution, 7)
    evolution.run.release()
    folder = tmp_path / "run" / "controller"
    damage(max((folder / FOLDER).iterdir()) if file == "checkpoint" else folder / file, how)
    goes_on(tmp_path / "run", settings, history)
    said = capsys.readouterr().err
    assert ("warning: " in said) == (file == "checkpoint" or how == "flipped"), said


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_each_write_flush_and_rename_of_a_checkpoint_may_fail(tmp_path, settings, history, call, monkeypatch):
    """The disk is full at the n-th one, for every n: what is on disk is whole, and leads to the same history."""
    real = {"write": os.write, "fsync": os.fsync, "replace": os.replace}
    path, failures = tmp_path / "run", 0

    def failing(at: int):
        count = [0]

        def instead(*args, **options):
            count[0] += 1
            if count[0] == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real[call](*args, **options)

        return instead

    class Disk:
        """A file that fails at its n-th write."""

        left = 0

        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *error):
            return self._file.__exit__(*error)

        def write(self, data):
            Disk.left -= 1
            if Disk.left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

    def opened(file, mode="r", *args, **options):
        return Disk(open(file, mode, *args, **options)) if "w" in mode or "a" in mode else open(file, mode, *args, **options)

    for at in range(1, 400):
        shutil.rmtree(path, ignore_errors=True)
        evolution = again(path, settings)
        evolve(evolution, 3)
        with monkeypatch.context() as patch:
            if call == "write":
                Disk.left = at
                patch.setattr("env.run.files.open", opened, raising=False)
            else:
                patch.setattr(f"env.run.files.os.{call}", failing(at))
            try:
                for generation in (4, 5):
                    evolution.checkpoints._saved = -1e9  # a state is written at each
                    evolve(evolution, generation)
                failed = False
            except OSError:
                failed = True
        evolution.run.release()
        goes_on(path, settings, history)
        if not failed:
            break
        failures += 1
    assert failures >= 2


class Flaky:
    """Candidates 1 and 3 score no number; 3 does the second time."""

    def __init__(self):
        self.asked = []

    def play(self, candidates, jobs, pulse=None):
        self.asked.append([job.candidate for job in jobs])
        for job in jobs:
            bad = candidates[job.candidate, 0] in ((1, 3) if len(self.asked) == 1 else (1,))
            yield Result(job, np.nan if bad else 10.0 * candidates[job.candidate, 0], 5)


def test_a_fitness_that_is_no_number_is_tried_again_and_then_comes_last():
    flaky, candidates, seeds = Flaky(), np.arange(5.0)[:, None], np.arange(10).reshape(5, 2)
    simulator = Simulator(flaky.play, 1)
    scores, lengths = np.zeros((5, 2)), np.zeros((5, 2), np.int64)
    for result in simulator.play(candidates, [type("J", (), {"candidate": i // 2, "index": i})() for i in range(10)]):
        scores.flat[result.job.index] = result.score
    play_again(Ranks(), simulator, candidates, seeds, scores, lengths)
    assert len(flaky.asked[1]) == 4
    fitness, bad = ranked_last(scores.mean(axis=1))
    assert bad == 1 and np.isfinite(fitness).all()
    assert fitness.argmin() == 1 and (fitness[[0, 2, 3, 4]] == [0, 20, 30, 40]).all()
    with pytest.raises(UserError, match="no candidate of this generation has a finite fitness"):
        ranked_last(np.full(5, np.nan))


def test_scores_of_the_mean_solution_that_are_no_numbers_leave_no_c(tmp_path, settings):
    evolution = again(tmp_path / "run", settings)
    evolve(evolution, 1)
    row = evolution.scored(evolution.es.mean, np.array([[1.0, np.nan]]))
    assert not (tmp_path / "run" / "controller" / "best.npz").exists()
    with pytest.raises(UserError, match="no mean solution of this evolution has a finite score"):
        evolution.check_scored()
    evolution.log.append({"generation": 1, **row})
    evolution.run.release()
    evolution = again(tmp_path / "run", settings)
    evolve(evolution, 2)
    evolution.scored(evolution.es.mean, np.array([[1.0, 3.0]]))
    evolution.check_scored()
    assert evolution.best == 2.0, "what was no number is not in its way"


# Trainings.


def toy_training(folder: Path, stop_at: int = 0, loss=lambda step: 1.0 / step) -> dict:
    """Thirteen steps, a row of the log after each four; a signal to stop comes in step `stop_at`."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.build((None, 1))
    variable = model.trainable_variables[0]

    def step(x):
        if int(x) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        variable.assign_add(tf.reshape(x, (1, 1)))
        return {"loss": tf.constant(loss(int(x)), tf.float32)}

    batches = lambda done: ((tf.constant(float(i)),) for i in range(done + 1, 20))  # noqa: E731
    row = train(folder, "toy", model, keras.optimizers.SGD(0.1), step, batches, 13, log_every=4)
    return {**row, "weight": float(variable.numpy()[0, 0])}


@pytest.mark.parametrize("stop_at", [1, 4, 6, 12, 13])
def test_a_training_that_is_asked_to_stop_writes_what_it_goes_on_from(tmp_path, stop_at):
    """In the midst of a row of the log, too: the same rows to the bit, and the same weights."""
    whole = toy_training(tmp_path / "whole")
    if stop_at < 13:
        with pytest.raises(Stopped, match=f"SIGTERM at step {stop_at} of 13 of toy: the same command goes on"):
            toy_training(tmp_path / "run", stop_at)
    row = toy_training(tmp_path / "run", 13 if stop_at == 13 else 0)
    assert without_times(row) | {"seconds_per_step": 0} == without_times(whole) | {"seconds_per_step": 0}
    rows, expected = ([{**row, "seconds_per_step": 0} for row in read_jsonl(tmp_path / name / "log.jsonl")] for name in ("run", "whole"))
    assert rows == expected and len(rows) == 4


def test_a_loss_that_is_no_number_is_not_kept(tmp_path):
    with pytest.raises(UserError, match="loss became nan by step 8"):
        toy_training(tmp_path, loss=lambda step: np.nan if step == 7 else 1.0)
    assert Checkpoints(tmp_path, "").latest().number < 7
    assert [row["step"] for row in read_jsonl(tmp_path / "log.jsonl")] == [4]


# Real commands.

EVOLVE = ("--population", "4", "--episodes", "2", "--eval-every", "3", "--eval-episodes", "2", "--max-steps", "60")


def start(*words: object, ranks: int = 3, deadline: float = 300) -> subprocess.Popen:
    line = [sys.executable, str(ROOT / str(words[0])), *map(str, words[1:])]
    line = [str(Path(sys.executable).with_name("mpirun")), "-np", str(ranks), *line] if ranks > 1 else line
    environment = os.environ | {DEADLINE: str(deadline)}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def ranks_of(path: Path) -> list[int]:
    """The Python processes that work on a run, but those that started others."""
    words = ["pgrep", "-f", f"python.*train.py.*{path}"]
    found = {int(word) for word in subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()}
    return sorted(pid for pid in found if "mpirun" not in Path(f"/proc/{pid}/cmdline").read_text())


def wait_for(log: Path, rows: int, child: subprocess.Popen) -> None:
    until = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") >= rows):
        assert child.poll() is None and time.monotonic() < until, child.communicate()[0]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    """The history of an evolution on one rank, at one go."""
    path = tmp_path_factory.mktemp("evolved") / "run"
    result = run_python("controller/train.py", "carracing", "--scale", "smoke", "--run", path, *EVOLVE, "--generations", "9")
    assert result.returncode == 0, result.stderr
    return path


def same_history(path: Path, expected: Path) -> None:
    rows, theirs = ([without_times(row) for row in read_jsonl(p / "controller" / "log.jsonl")] for p in (path, expected))
    assert rows == theirs
    ours, best = (load_arrays(p / "controller" / "best.npz")[0]["params"] for p in (path, expected))
    np.testing.assert_array_equal(ours, best)


@pytest.mark.slow
def test_a_killed_a_stopped_and_a_silent_rank_and_more_of_them(evolved, tmp_path):
    """One evolution: a rank is killed on 3 ranks, another stopped, the job asked to stop on 2; it ends on 5, with the same history."""
    path = tmp_path / "run"
    words = ("controller/train.py", "carracing", "--scale", "smoke", "--run", path, *EVOLVE, "--generations", "9")
    log = path / "controller" / "log.jsonl"

    child = start(*words)
    wait_for(log, 2, child)
    os.kill(ranks_of(path)[-1], signal.SIGKILL)
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 9 and "Killed" in said

    child = start(*words, deadline=20)
    wait_for(log, log.read_text().count("\n") + 1, child)
    os.kill(ranks_of(path)[-1], signal.SIGSTOP)
    began = time.monotonic()
    said = child.communicate(timeout=120)[0]
    assert child.returncode == STUCK and time.monotonic() - began < 60
    assert "of 3 has given no sign of life for" in said and "the same command goes on from here" in said

    child = start(*words, ranks=2)
    wait_for(log, log.read_text().count("\n") + 1, child)
    child.send_signal(signal.SIGUSR1)
    began = time.monotonic()
    said = child.communicate(timeout=60)[0]
    assert child.returncode == RESUME and time.monotonic() - began < 20
    assert "stopped by SIGUSR1: the same command goes on from here (exit code 75)" in said

    child = start(*words, ranks=5)
    assert child.wait(timeout=300) == 0
    same_history(path, evolved)


@pytest.mark.slow
def test_run_sh_starts_a_killed_stage_again_but_not_for_ever(evolved, tmp_path):
    """A rank is killed: the pipeline goes on by itself, to the same history. Where nothing ever gets on, it gives up."""
    path = tmp_path / "run"
    words = [
        "--controller-population",
        "4",
        "--controller-episodes",
        "2",
        "--controller-eval-every",
        "3",
        "--controller-eval-episodes",
        "2",
    ]
    words += ["--max-steps", "60", "--controller-generations", "9", "--vae-source", "shipped", "--rnn-source", "shipped", "--ranks", "3"]
    child = start("controller/pipeline.py", "carracing", "--scale", "smoke", "--run", path, *words, "--no-estimate", ranks=1)
    wait_for(path / "controller" / "log.jsonl", 3, child)
    os.kill(ranks_of(path)[-1], signal.SIGKILL)
    said = child.communicate(timeout=600)[0]
    assert child.returncode == 0, said
    assert "controller: stopped with exit code 9; it got on, starting it again" in said
    same_history(path, evolved)

    shutil.rmtree(path / "report")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import controller.pipeline as p; from pathlib import Path;"
    code += "p.COMMANDS['report'] = 'tests/games'; p.run_stage('report', 'carracing', Path(sys.argv[2]), 1, 'cmaes')"
    result = subprocess.run([sys.executable, "-c", code, str(ROOT), str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("starting it again") == 3 and "starting it again (3 of 3)" in result.stderr


@pytest.mark.slow
def test_no_damage_goes_unnoticed(tmp_path):
    """Of a hundred; for a thousand: tests/corruptions.py."""
    make_run(tmp_path / "run")
    rows = campaign(tmp_path / "run", trials=100, seed=3)
    assert [row for row in rows if row["outcome"] in ("silent", "traceback", "hang")] == []
    assert sum(row["outcome"] == "refused" for row in rows) > 40
    counts = json.loads((ROOT / "tests" / "benches" / "corruptions.json").read_text())
    assert counts["trials"] >= 1000 and set(counts["all"]) == {"refused", "said", "harmless"}


# Folders.

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from env.run.rundir import Run
from env.tasks import get_task
run = Run(Path(sys.argv[2]), get_task("carracing").scales["smoke"])
print("held", flush=True)
time.sleep(60)
"""
BLIND = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from env.run.ranks import run_ranks
def main(ranks):
    folder = Path(sys.argv[2]) / str(ranks.rank)
    folder.mkdir()
    ranks.check_shared(folder, seconds=1.0)
run_ranks(main)
"""


def hold(run: Path) -> subprocess.Popen:
    """A process that holds the run."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(ROOT), str(run)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_a_run_is_held_by_one_command_until_that_ends_or_is_killed(tmp_path, task):
    holder = hold(tmp_path / "run")
    with pytest.raises(UserError, match=rf"run is in use by process {holder.pid} on \S+: wait for it, or choose another --run"):
        Run(tmp_path / "run", task.scales["smoke"])
    holder.kill()
    holder.wait()
    Run(tmp_path / "run", task.scales["smoke"]).release()


def test_a_process_that_is_still_ending_is_waited_for(tmp_path, task):
    holder = hold(tmp_path / "run")
    threading.Timer(0.5, holder.kill).start()
    Run(tmp_path / "run", task.scales["smoke"]).release()
    assert holder.wait() == -signal.SIGKILL, "the run was free only when its holder was gone"


def test_what_a_killed_stage_was_writing_goes_when_it_is_started_again(tmp_path, task):
    run = Run(tmp_path / "run", task.scales["smoke"])
    stage = run.stage("vae")
    stage.start()
    half, log = stage.dir / FOLDER / ".000000007.npz.4711.tmp", stage.dir / "log.jsonl"
    half.parent.mkdir()
    half.write_bytes(b"half")
    log.write_text("")
    stage.start()
    assert not half.exists() and log.exists()


def test_ranks_that_see_another_folder_are_told_of(tmp_path):
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    words = [mpirun, "-np", "3", sys.executable, "-c", BLIND, str(ROOT), str(tmp_path)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 2
    lines = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "2 of 3 ranks do not see" in lines[0] and "disk that all hosts share" in lines[0]
