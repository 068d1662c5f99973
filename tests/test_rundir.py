"""A run's directory: what is skipped, resumed and refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil

import pytest

from controller.results.studies import SHARED
from env.run.errors import UserError
from env.run.files import read_json, write_json
from env.run.rundir import Run, waiting_stages
from env.run.settings import STAGES, Settings
from env.run.stages import Stage
from env.tasks import get_task


def with_vae(settings, **changes):
    return dataclasses.replace(settings, vae=dataclasses.replace(settings.vae, **changes))


def finished(path, settings, *names):
    run = Run(path, settings)
    for name in names:
        run.stage(name).start()
        run.stage(name).finish({})
    run.release()


def test_a_stage_is_finished_only_after_finish(tmp_path, tiny):
    run = Run(tmp_path, tiny)
    assert not run.stage("vae").check()
    run.stage("vae").start()
    assert not run.stage("vae").check()
    run.stage("vae").finish({"loss": 1.0})
    assert run.stage("vae").check()
    assert run.stage("vae").summary == {"loss": 1.0}


def test_changed_settings_are_named_not_reused(tmp_path, tiny):
    finished(tmp_path, tiny, "extract", "vae", "rnn")
    with pytest.raises(UserError, match="stage vae .* vae.batch = 20, now it is 21"):
        Run(tmp_path, with_vae(tiny, batch=21))
    with pytest.raises(UserError, match="stage extract .* seed"):
        Run(tmp_path, dataclasses.replace(tiny, seed=tiny.seed + 1))


def test_a_later_stages_settings_do_not_touch_an_earlier_one(tmp_path, tiny):
    finished(tmp_path, tiny, "extract")
    assert Run(tmp_path, with_vae(tiny, batch=21)).stage("extract").check()


def test_a_resumable_setting_may_grow_but_not_shrink(tmp_path, tiny):
    tiny = with_vae(tiny, epochs=2)
    finished(tmp_path, tiny, "vae")
    run = Run(tmp_path, with_vae(tiny, epochs=3))
    assert not run.stage("vae").check()
    run.release()
    with pytest.raises(UserError, match="vae.epochs = 2, now it is 1"):
        Run(tmp_path, with_vae(tiny, epochs=1))


def test_what_was_made_from_a_grown_stage_is_named(tmp_path, tiny):
    finished(tmp_path, tiny, "vae", "rnn")
    with pytest.raises(UserError, match="stage encode|stage rnn"):
        Run(tmp_path, with_vae(tiny, epochs=3))


def test_no_limit_counts_as_the_largest_limit(tmp_path, tiny):
    finished(tmp_path, with_vae(tiny, limit_steps=5), "vae")
    run = Run(tmp_path, with_vae(tiny, limit_steps=0))
    assert not run.stage("vae").check()
    run.stage("vae").start()
    run.stage("vae").finish({})
    run.release()
    with pytest.raises(UserError, match="vae.limit_steps"):
        Run(tmp_path, with_vae(tiny, limit_steps=5))


def test_one_command_at_a_time(tmp_path, tiny):
    first = Run(tmp_path, tiny)
    with pytest.raises(UserError, match="in use by process"):
        Run(tmp_path, tiny)
    first.release()
    Run(tmp_path, tiny).release()


def test_a_run_that_cannot_be_made_is_one_line(tmp_path, tiny):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run directory"):
        Run(tmp_path / "file" / "run", tiny)


def made(path, text="weights"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def whole_run(path, settings):
    """A run with all stages finished, each made from the ones before it."""
    run = Run(path, settings)
    products = {"extract": "log.jsonl", "vae": "weights.npz", "rnn": "weights.npz", "controller": "best.npz"}
    for name in STAGES:
        run.stage(name).start()
        if name in products:
            made(path / name / products[name], f"the first {name}")
        run.stage(name).finish({})
    run.release()


def test_a_stage_knows_what_it_was_made_from(tmp_path, tiny):
    """A V made anew is not combined with the latents, the M and the C of the old one, and so on down the line."""
    whole_run(tmp_path, tiny)
    Run(tmp_path, tiny).release()
    for changed, named in (("extract/log.jsonl", "vae .* another extract"), ("vae/weights.npz", "encode .* another vae")):
        before, stage = (tmp_path / changed).read_text(), Stage(tmp_path, changed.split("/")[0], tiny)
        made(tmp_path / changed, "another")
        with pytest.raises(UserError, match=f"which stage {stage.name} made, is missing, damaged or another's: restore it"):
            Run(tmp_path, tiny)
        stage.finish({})
        with pytest.raises(UserError, match=f"stage {named} than the run has now: delete"):
            Run(tmp_path, tiny)
        made(tmp_path / changed, before)
        stage.finish({})
    made(tmp_path / "rnn" / "weights.npz", "another")
    Stage(tmp_path, "rnn", tiny).finish({})
    with pytest.raises(UserError, match="stage controller .* another rnn"):
        Run(tmp_path, tiny)


def test_a_stage_keeps_what_it_was_started_from(tmp_path, tiny):
    """V trained anew while M is being trained: what M is from is what it was started from."""
    whole_run(tmp_path, tiny)
    run = Run(tmp_path, tiny)
    run.stage("rnn").start()
    made(tmp_path / "vae" / "weights.npz", "another")
    run.stage("encode").start()
    run.stage("rnn").finish({})
    with pytest.raises(UserError, match="stage rnn .* another encode"):
        run.stage("rnn").check()


@pytest.mark.parametrize("deleted", ["vae", "rnn"])
def test_training_anew_is_refused_while_something_older_depends_on_it(tmp_path, tiny, deleted):
    whole_run(tmp_path, tiny)
    assert waiting_stages(tmp_path, tiny, STAGES) == ["extract", "encode"]  # their files are not there
    shutil.rmtree(tmp_path / deleted)
    with pytest.raises(UserError, match=f"{deleted} is to be trained, but .*controller were made from an earlier one"):
        waiting_stages(tmp_path, tiny, STAGES)


def test_a_scoring_of_an_older_c_counts_as_unfinished(tmp_path, tiny):
    whole_run(tmp_path, tiny)
    made(tmp_path / "controller" / "best.npz", "a better one")
    Stage(tmp_path, "controller", tiny).finish({})
    assert waiting_stages(tmp_path, tiny, STAGES)[-1] == "evaluate"


def test_recordings_by_an_agent_know_which(tmp_path, tiny):
    """The agent of another run, which went on evolving: its recordings are not mixed."""
    whole_run(tmp_path / "other", tiny)
    settings = dataclasses.replace(tiny, extract=dataclasses.replace(tiny.extract, policy="controller", agent=str(tmp_path / "other")))
    stage = Stage(tmp_path / "run", "extract", settings)
    stage.start()
    assert not stage.check()
    made(tmp_path / "other" / "controller" / "best.npz", "a better one")
    with pytest.raises(UserError, match="stage extract .* another controller"):
        stage.check()


def test_what_an_agent_has_recorded_outlives_it(tmp_path, tiny):
    other = tmp_path / "other"
    whole_run(other, tiny)
    settings = dataclasses.replace(tiny, extract=dataclasses.replace(tiny.extract, policy="controller", agent=str(other)))
    stage = Stage(tmp_path / "run", "extract", settings)
    stage.start()
    stage.finish({})
    made(other / "controller" / "best.npz", "a better one")
    assert stage.check()
    shutil.rmtree(other)
    assert stage.check()
    Run(tmp_path / "run", settings).release()


def test_a_disk_without_locks_is_told_of(tmp_path, tiny, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("env.run.rundir.fcntl.flock", refuse)
    Run(tmp_path, tiny).release()
    assert "a disk without locks" in capsys.readouterr().err


def test_a_temperature_study_is_not_left_on_another_v_and_m(tmp_path):
    settings = get_task("doom").scales["smoke"]
    stage = Stage(tmp_path / "run" / "studies" / "tau-0.5", "controller", settings)
    stage.start()
    stage.finish({})
    with pytest.raises(UserError, match="vae is to be trained, but .*studies/tau-0.5/controller were made from an earlier one"):
        waiting_stages(tmp_path / "run", settings, SHARED)


def test_a_setting_that_came_later_leaves_older_runs_as_they_are(tmp_path, tiny):
    """Their files do not have it; that means what was done before there was one, and another value is another run."""
    stage = Stage(tmp_path, "extract", tiny)
    stage.start()
    stage.finish({})
    record = read_json(stage.dir / "stage.json", sealed=True)
    assert "world.repeat" not in record["settings"]
    assert "world.repeat" not in tiny.deciding("extract")
    data = tiny.to_dict()
    del data["world"]["repeat"]
    assert Settings.from_dict(data).world == tiny.world
    held = dataclasses.replace(tiny, world=dataclasses.replace(tiny.world, repeat=2))
    assert held.deciding("extract")["world.repeat"] == 2
    assert Stage(tmp_path, "extract", held).identity() != stage.identity()
    with pytest.raises(UserError, match="made with world.repeat = 1, now it is 2"):
        Stage(tmp_path, "extract", held).check()
    again = Stage(tmp_path / "other", "extract", held)
    again.start()
    again.finish({})
    assert again.check()
    with pytest.raises(UserError, match="made with world.repeat = 2, now it is 1"):
        Stage(tmp_path / "other", "extract", tiny).check()


def test_a_run_of_an_older_version_is_refused_in_one_line(tmp_path, tiny):
    finished(tmp_path, tiny, "extract")
    file = tmp_path / "extract" / "stage.json"
    record = json.loads(file.read_text())
    del record["crc"]
    write_json(file, {key: value for key, value in record.items() if key != "made_from"}, seal=True)
    with pytest.raises(UserError, match="older version"):
        Run(tmp_path, tiny)
    del record["settings"]["extract.agent"]
    write_json(file, record, seal=True)
    with pytest.raises(UserError, match="another version .*extract.agent is missing"):
        Run(tmp_path, tiny)
