"""A run's directory: what is skipped, resumed and refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from controller.results.temperatures import SHARED
from env.run.errors import UserError
from env.run.rundir import Run, Stage
from env.run.stages import waiting_stages
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


def test_a_temperature_study_is_not_left_on_another_v_and_m(tmp_path):
    settings = get_task("doom").scales["smoke"]
    stage = Stage(tmp_path / "run" / "temperatures" / "0.5", "controller", settings)
    stage.start()
    stage.finish({})
    with pytest.raises(UserError, match="0.5 has a C that was evolved on another V and M"):
        waiting_stages(tmp_path / "run", settings, SHARED)


def test_a_stage_older_than_a_setting_is_as_with_its_default(tmp_path, tiny):
    run = Run(tmp_path / "run", tiny)
    stage = run.stage("rnn")
    stage.start()
    stage.finish({})
    record = json.loads((stage.dir / "stage.json").read_text())
    del record["settings"]["rnn.dtype"]
    (stage.dir / "stage.json").write_text(json.dumps(record))
    assert stage.check()
    other = dataclasses.replace(tiny, rnn=dataclasses.replace(tiny.rnn, dtype="mixed_bfloat16"))
    with pytest.raises(UserError, match="rnn.dtype = float32, now it is mixed_bfloat16"):
        Stage(run.path, "rnn", other).check()
