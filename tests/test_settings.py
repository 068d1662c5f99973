"""Settings, flags and tasks."""

from __future__ import annotations

import dataclasses

import pytest

from env.run.command import parser, resolve
from env.run.errors import UserError
from env.run.flags import OneLineParser, add_flags
from env.run.settings import MEMORIES, SCALES, SECTIONS, TRAINERS, Extract, Rnn, Settings, Vae
from env.tasks import TASKS, get_task, system


def parse(stage, *words):
    return resolve(parser("", stage).parse_args(list(words)), stage)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("game", TASKS)
def test_every_scale_of_every_system_is_valid_and_survives_json(game, scale, memory, trainer):
    task = TASKS[game]
    settings = system(task.scales[scale], memory, trainer)
    settings.check()
    settings.check_together()
    if (game, memory, trainer) == ("carracing", "mdnrnn", "actor_critic"):
        with pytest.raises(UserError, match="this M dreams of no reward or no end: take --memory rssm"):
            settings.check_dreams(task.step_reward)
    else:
        settings.check_dreams(task.step_reward)
    assert settings.scale == scale
    assert Settings.from_dict(settings.to_dict()) == settings


def test_a_whole_number_in_a_file_is_the_same_setting():
    """To JSON, 1 and 1.0 are two values: a stage's identity would be another."""
    settings = get_task("carracing").scales["smoke"]
    data = settings.to_dict()
    data["vae"]["kl_tolerance"], data["controller"]["l2"] = 1, 0
    read = Settings.from_dict(data)
    assert repr((read.vae.kl_tolerance, read.controller.l2, read.vae.epochs)) == "(1.0, 0.0, 1)"


def test_flags_of_another_system_are_refused():
    with pytest.raises(UserError, match="--rssm-units means nothing with --memory mdnrnn"):
        parse(None, "carracing", "--rssm-units", "5")
    with pytest.raises(UserError, match="--rnn-units means nothing with --memory rssm"):
        parse(None, "carracing", "--memory", "rssm", "--rnn-units", "5")
    with pytest.raises(UserError, match="--actor-critic-lam means nothing with --memory rssm and --trainer cmaes"):
        parse("controller", "carracing", "--memory", "rssm", "--actor-critic-lam", "1")
    settings = parse("rnn", "carracing", "--memory", "rssm", "--rssm-units", "5")[2]
    assert (settings.memory, settings.of_memory.units) == ("rssm", 5)


def test_paper_scale_is_the_papers():
    """Every number of the paper and, where it is silent, of the authors' code, spelt out (tests must not read them from where the
    program does)."""
    racing, doom = (get_task(name).scales["paper"] for name in ("carracing", "doom"))
    assert (racing.world.max_steps, doom.world.max_steps) == (1000, 2100)
    assert racing.extract == Extract(10000, "random", "", 0.0, "", 1, True)
    assert doom.extract == Extract(10000, "hold", "", 0.0, "", 101, False)
    for settings, z_size in ((racing, 32), (doom, 64)):
        assert settings.vae == Vae("", "", z_size, 0.5, 1e-4, 100, 10, 0, "float32")
        c = settings.controller
        assert (c.population, c.episodes, c.seed_groups, c.sigma, c.l2, c.hidden) == (64, 16, 32, 0.1, 0.01, 0)
        assert (c.generations, c.eval_every, c.eval_episodes) == (1800, 25, 1024)
        assert (c.start, c.curiosity) == ("", 0.0)
        assert (settings.evaluate.episodes, settings.evaluate.render) == (100, "official")
    assert racing.rnn == Rnn("", "", 256, 5, 1e-3, 1.0, 100, "episodes", 0, False, 10.0, 1e-5, 1.0, 4000, "float32")
    assert doom.rnn == Rnn("", "", 512, 5, 1e-3, 1.0, 100, "stream", 500, True, 10.0, 1e-5, 0.99999, 24400, "float32")
    assert (racing.controller.world, racing.controller.features, racing.controller.bias) == ("real", "zh", True)
    c = doom.controller
    assert (c.world, c.features, c.bias, c.temperature, c.dream_steps) == ("dream", "zch", False, 1.15, 2100)


def test_the_authors_seeds_are_shared_by_two_candidates_at_any_population():
    c = get_task("carracing").scales["paper"].controller
    groups = {population: dataclasses.replace(c, population=population).seed_groups for population in (2, 16, 64, 65, 128)}
    assert groups == {2: 1, 16: 8, 64: 32, 65: 33, 128: 64}
    assert dataclasses.replace(c, sharing=0).seed_groups == 1


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
        ("controller", {"sharing": -1}, "at least 0"),
        ("controller", {"device": "gpu"}, "worlds run on cores"),
        ("controller", {"world": "dream"}, "dreams of no reward"),
        ("evaluate", {"dream_episodes": 3}, "dreams of no reward"),
        ("vae", {"batch": 10**8}, "frames at most"),
        ("rnn", {"sequences": "stream", "window": 10**6}, "frames at most"),
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
        bad.check_dreams(task.step_reward)
        bad.check_together()


def test_what_is_taken_as_it_is_need_not_have_enough_to_learn_from(task):
    paper = task.scales["paper"]
    few = dataclasses.replace(paper, extract=dataclasses.replace(paper.extract, episodes=1, past_done=False))
    bad = dataclasses.replace(few, vae=dataclasses.replace(few.vae, batch=2000))
    taken = dataclasses.replace(bad, vae=dataclasses.replace(bad.vae, source="shipped"), rnn=dataclasses.replace(bad.rnn, source="shipped"))
    with pytest.raises(UserError, match="frames at most"):
        bad.check_together()
    taken.check_together()


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_are_bounded(task, seed):
    with pytest.raises(UserError, match="run.seed"):
        dataclasses.replace(task.scales["paper"], seed=seed).check()


@pytest.mark.parametrize("section", ["seed", "rnn.units", "controller.sharing"])
def test_a_missing_setting_does_not_become_carracings(section):
    data = get_task("doom").scales["paper"].to_dict()
    *where, name = section.split(".")
    del (data[where[0]] if where else data)[name]
    with pytest.raises(UserError, match=f"{section} is missing"):
        Settings.from_dict(data)


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


def test_what_a_game_does_not_tell_is_not_learned_from():
    carracing, doom = get_task("carracing"), get_task("doom")
    settings = system(carracing.scales["smoke"], "rssm", "cmaes")
    settings.check_told(False, 0)
    for name, changes, words in (
        ("rssm", {"ends_from": "health"}, "carracing tells of none .*--rssm-ends-from deaths"),
        ("rssm", {"beta_privileged": 1.0}, "rssm.beta_privileged is not 0, but carracing tells nothing privileged"),
        ("rnn", {"beta_privileged": 1.0}, "rnn.beta_privileged is not 0, but carracing tells nothing privileged"),
        ("vae", {"beta_privileged": 1.0}, "vae.beta_privileged is not 0, but carracing tells nothing privileged"),
        ("controller", {"features": "privileged"}, "a teacher sees what is privileged, but carracing tells nothing of that kind"),
        ("controller", {"teacher": "runs/t"}, "a teacher sees what is privileged, but carracing tells nothing of that kind"),
    ):
        changed = dataclasses.replace(settings, **{name: dataclasses.replace(getattr(settings, name), **changes)})
        with pytest.raises(UserError, match=words):
            changed.check_told(False, 0)
        changed.check_told(doom.health, doom.privileged)
    assert carracing.privileged and not carracing.health
