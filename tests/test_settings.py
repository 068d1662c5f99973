"""Settings, flags and tasks."""

from __future__ import annotations

import dataclasses

import pytest

from env.run.command import parser, resolve
from env.run.errors import UserError
from env.run.flags import OneLineParser, add_flags
from env.run.settings import SCALES, SECTIONS, Settings, Vae
from env.tasks import get_task


def parse(stage, *words):
    return resolve(parser("", stage).parse_args(list(words)), stage)


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_valid_and_survives_json(task, scale):
    settings = task.scales[scale]
    settings.check()
    settings.check_together()
    assert settings.scale == scale
    assert Settings.from_dict(settings.to_dict()) == settings


def test_paper_scale_is_the_papers():
    paper = get_task("carracing").scales["paper"]
    assert (paper.extract.episodes, paper.vae.z_size, paper.rnn.units, paper.rnn.mixtures) == (10000, 32, 256, 5)
    c = paper.controller
    assert (c.population, c.episodes, c.sigma, c.features, c.hidden, c.seed_groups) == (64, 16, 0.1, "zh", 0, 32)
    assert (paper.vae.learning_rate, paper.rnn.learning_rate, paper.vae.batch, paper.rnn.batch) == (1e-4, 1e-3, 100, 100)


def test_every_field_explains_itself():
    for cls in SECTIONS.values():
        for field in dataclasses.fields(cls):
            assert len(field.metadata["help"]) > 10, f"{cls.__name__}.{field.name}"


def test_flags_of_a_stage_have_no_prefix_and_the_pipelines_do(tmp_path):
    run = str(tmp_path / "new")
    assert parse("vae", "carracing", "--run", run, "--batch", "7")[2].vae.batch == 7
    assert parse(None, "carracing", "--run", run, "--vae-batch", "7", "--rnn-batch", "8")[2].rnn.batch == 8
    assert parse("evaluate", "carracing", "--run", run, "--render", "fast")[2].evaluate.render == "fast"
    assert parse("evaluate", "carracing", "--run", run)[2].evaluate.render == "official"


def test_saved_settings_of_a_run_are_its_defaults(tmp_path, tiny):
    from env.run.rundir import Run

    Run(tmp_path, dataclasses.replace(tiny, seed=77)).release()
    assert parse("vae", "carracing", "--run", str(tmp_path))[2].seed == 77
    with pytest.raises(UserError, match="at scale smoke, not day"):
        parse("vae", "carracing", "--run", str(tmp_path), "--scale", "day")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mario",), "unknown task 'mario'"),
        (("--bath", "3"), "did you mean '--batch'"),
        (("--batch", "many"), "invalid int value"),
        (("--batch", "0"), "at least 1"),
        (("--learning-rate", "nan"), "finite"),
        (("--dtype", "float16"), "choose one of"),
        (("--scale", "huge"), "invalid choice"),
    ],
)
def test_bad_flags_are_refused_in_one_line(tmp_path, words, message):
    with pytest.raises(UserError, match=message) as error:
        parse("vae", *words, "--run", str(tmp_path / "new"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("controller", {"population": 8}, "seed_groups is 32"),
        ("rnn", {"window": 2000}, "no episode is longer"),
        ("rnn", {"window": 1}, "at least 2 frames"),
        ("extract", {"past_done": False}, "one length"),
        ("extract", {"episodes": 50}, "rnn.batch is 100"),
        ("vae", {"batch": "many"}, "must be of type int"),
        ("vae", {"batch": 2.5}, "must be of type int"),
        ("vae", {"learning_rate": None}, "must be of type float"),
    ],
)
def test_contradictions_are_refused_before_anything_runs(task, section, changes, message):
    paper = task.scales["paper"]
    bad = dataclasses.replace(paper, **{section: dataclasses.replace(getattr(paper, section), **changes)})
    with pytest.raises(UserError, match=message):
        bad.check()
        bad.check_together()


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_are_bounded(task, seed):
    with pytest.raises(UserError, match="run.seed"):
        dataclasses.replace(task.scales["paper"], seed=seed).check()


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"task": "carracing", "vae": 3}'])
def test_settings_that_someone_edited_badly_are_one_line(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match="settings.json"):
        parse("vae", "carracing", "--run", str(tmp_path))


def test_flags_take_no_abbreviations():
    new = OneLineParser()
    add_flags(new, Vae, group="vae")
    with pytest.raises(UserError, match="unknown flag"):
        new.parse_args(["--kl", "1"])
