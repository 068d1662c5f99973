"""controller/ship.py: an agent is copied whole, and nothing else is lost by it."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from controller.ship import check_shape, check_target, lay_out
from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays, save_arrays, write_json
from env.run.rundir import load_settings
from env.run.weights import fingerprint, fingerprints, model_paths, shipped, shipped_systems
from env.tasks import get_task

TASK = get_task("doom")
SMOKE = TASK.scales["smoke"]
SETTINGS = dataclasses.replace(SMOKE, memory="rssm", controller=dataclasses.replace(SMOKE.controller, features="zh"))


@pytest.fixture()
def run(tmp_path):
    """A run on the V that comes with the project, as --vae-source shipped makes it."""
    path = tmp_path / "run"
    (path / "vae").mkdir(parents=True)
    shutil.copyfile(shipped("vae", "doom", "weights.npz"), path / "vae" / "weights.npz")
    save_arrays(path / "encode" / "initial.npz", {"mu": np.ones(3, np.float32)}, {})
    arrays = {"a": np.full(3, 1 / 3, np.float32), "privileged_output/bias": np.ones(2, np.float32)}
    save_arrays(path / "rnn" / "weights.npz", arrays, {"model": "rssm"})
    save_arrays(path / "controller" / "best.npz", {"params": np.ones(3, np.float32)}, {"made_with": {}})
    JsonlLog(path / "controller" / "log.jsonl", rows=[{"generation": 1}])
    write_json(path / "settings.json", SETTINGS.to_dict())
    return path


def test_what_lies_elsewhere_has_v_too(run, tmp_path):
    target = tmp_path / "out"
    check_target(run, target)
    lay_out(TASK, run, SETTINGS, target)
    models = model_paths("doom", target)
    assert models.vae == target / "vae" / "weights.npz" and models.rnn == target / "rnn" / "weights.npz"
    assert load_arrays(target / "controller" / "best.npz")[1]["made_with"] == fingerprints(models)
    arrays = load_arrays(models.rnn)[0]
    assert arrays["a"].dtype == np.float16 and list(arrays) == ["a"]  # the head that nobody asks stays behind
    assert load_settings(target / "settings.json").memory == "rssm"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_an_agent_that_comes_along_finds_the_projects_v(run, monkeypatch, tmp_path):
    monkeypatch.setattr("env.run.weights.shipped_systems", lambda task: tmp_path / "systems")
    target = tmp_path / "systems" / "rssm-cmaes"
    lay_out(TASK, run, SETTINGS, target)
    assert not (target / "vae").exists()
    assert load_arrays(target / "controller" / "best.npz")[1]["made_with"]["vae"] == fingerprint(shipped("vae", "doom", "weights.npz"))
    assert shipped_systems("doom") != tmp_path / "systems"


def test_another_agent_goes_and_what_lies_beside_it_stays(run, tmp_path):
    target = tmp_path / "out"
    lay_out(TASK, run, SETTINGS, target)
    write_json(target / "evaluate" / "scores.json", {"mean": 1.0})
    write_json(target / "notes.json", {"by": "hand"})
    save_arrays(run / "controller" / "best.npz", {"params": np.zeros(3, np.float32)}, {"made_with": {}})
    check_target(run, target)
    lay_out(TASK, run, SETTINGS, target)
    assert not (target / "evaluate" / "scores.json").exists(), "of the agent that was there"
    assert (target / "notes.json").exists()
    assert not load_arrays(target / "controller" / "best.npz")[0]["params"].any()


def test_only_the_papers_shapes_come_along_as_its_agent():
    check_shape(TASK, TASK.scales["paper"])
    for section, name, value in (("vae", "z_size", 32), ("rnn", "units", 64), ("world", "repeat", 4)):
        paper = TASK.scales["paper"]
        other = dataclasses.replace(paper, **{section: dataclasses.replace(getattr(paper, section), **{name: value})})
        with pytest.raises(UserError, match=f"the run has {name} {value}, .* give --to"):
            check_shape(TASK, other)


def test_nothing_that_is_no_agent_is_deleted(run, tmp_path):
    other, file = tmp_path / "other", tmp_path / "file"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    file.write_text("a file")
    for target, words in (
        (run, "within each other"),
        (tmp_path, "within each other"),
        (run / "controller", "within each other"),
        (other, "holds no agent"),
        (file, "holds no agent"),
    ):
        with pytest.raises(UserError, match=words):
            check_target(run, target)
    damaged = run / "rnn" / "weights.npz"
    target = tmp_path / "out"
    lay_out(TASK, run, SETTINGS, target)
    before = fingerprint(target / "rnn" / "weights.npz")
    damaged.write_bytes(b"no weights")
    with pytest.raises(UserError):
        lay_out(TASK, run, SETTINGS, target)
    assert fingerprint(target / "rnn" / "weights.npz") == before, "an agent goes when its successor is whole"
