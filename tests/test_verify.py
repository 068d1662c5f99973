"""The paper's tables: statistics, verdicts, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from conftest import ROOT, run_python

from controller.results.evidence import of_run, of_shipped
from controller.results.scores import summarise
from controller.results.tables import all_tables, deaths_per_step, deaths_table, loss_tables, score_rows
from controller.results.welch import Difference, difference, verdict
from env.run.files import JsonlLog, save_arrays, write_json
from env.run.weights import fingerprint, fingerprints, model_paths
from env.tasks import get_task


def test_welchs_test_against_student_s_density_added_up():
    rng = np.random.default_rng(3)
    ours, mean, std = rng.normal(800, 90, 40), 830.0, 60.0
    a, b = np.var(ours, ddof=1) / 40, std**2 / 99
    freedom = (a + b) ** 2 / (a**2 / 39 + b**2 / 99)
    t = (ours.mean() - mean) / math.sqrt(a + b)
    grid = np.linspace(abs(t), 400, 4_000_001)
    constant = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    density = constant * (1 + grid**2 / freedom) ** (-(freedom + 1) / 2)
    p = 2 * np.trapezoid(density, grid)
    found = difference(ours, mean, std)
    assert found.p == pytest.approx(p, rel=1e-4)
    assert found.mean == pytest.approx(ours.mean() - mean)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


def test_the_interval_covers_no_difference_at_its_rate():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        theirs = rng.normal(100, 50, 100)
        found = difference(rng.normal(100, 20, 30), float(theirs.mean()), float(theirs.std()))
        assert (found.low <= 0 <= found.high) == (found.p >= 0.05)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (Difference(50, 10, 90, 0.01), "above"),
        (Difference(-50, -90, -10, 0.01), "below"),
        (Difference(-50, -120, 20, 0.2), "reproduced"),
        (Difference(-50, -260, 160, 0.6), "undecided"),
        (Difference(-50, -120, 101, 0.2), "reproduced"),
        (Difference(-100, -201, 1, 0.06), "undecided"),
        (Difference(0, -300, 300, 1.0), "undecided"),
    ],
)
def test_verdicts(found, word):
    assert verdict(found, 1000, 0.2) == word


def test_equal_returns_are_no_error():
    assert verdict(difference(np.full(10, 906.0), 906, 0), 906, 0.1) == "reproduced"


@pytest.fixture()
def run(tmp_path, task):
    """A run of CarRacing as verify reads it, with a scored C."""
    settings = task.scales["paper"]
    path = tmp_path / "run"
    write_json(path / "settings.json", settings.to_dict())
    for stage in ("vae", "rnn"):
        save_arrays(path / stage / "weights.npz", {"w": np.zeros(7)}, {})
    c = path / "controller"
    save_arrays(c / "best.npz", {"params": np.zeros(867)}, {})
    rows = [{"generation": g, "mean": 5.0 * g, "min": 0.0, "max": 9.0, "steps": 10, "seconds": 36.0, "cores": 100} for g in (1, 2, 11)]
    rows[2] |= {"eval": 77.0, "eval_std": 3.0, "eval_seconds": 72.0}
    JsonlLog(c / "log.jsonl", rows=rows)
    scored(path, np.random.default_rng(0).normal(900, 25, 100))
    return path


def scored(path, returns, **changes):
    made_of = fingerprints(model_paths("carracing", path)) | {"controller": fingerprint(path / "controller" / "best.npz")}
    scores = {"render": "official", "max_steps": 1000, "seed": 1, "fingerprints": made_of} | summarise(returns, returns, returns)
    write_json(path / "evaluate" / "scores.json", scores | changes)


def full_row(task, path):
    """The full model's cells in the table of scores."""
    return score_rows(of_run(task, path)).data[-1]


def test_a_runs_tables(run, task):
    tables = {table.title: table for table in all_tables(of_run(task, run))}
    row = full_row(task, run)
    assert (row["verdict"], row["agent"], row["paper_mean"]) == ("reproduced", "run", 906)
    assert [r["verdict"] for r in tables["Scores"].data[:2]] == ["not run", "not run"]
    curve = tables["Evolution of run"]
    assert [r["generation"] for r in curve.data] == [1, 11], "at the authors' generations alone"
    assert curve.rows[1][1:4] == ["55 / 0 / 9", "281 / -19 / 612", "-226"] and curve.rows[1][4] == "77 ± 3"
    assert [(r["part"], r["ours"], r["verdict"]) for r in tables["Parameters"].data] == [
        ("V", 7, "differs"),
        ("M", 7, "differs"),
        ("C", 867, "reproduced"),
    ]
    assert tables["Cost"].data[0]["core_hours"] == pytest.approx((3 * 36 + 72) * 100 / 3600)
    for table in tables.values():
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert len({len(line) for line in lines}) == 1, "columns are aligned"


def test_deaths_are_a_share_of_the_steps_lived_in_each_part_of_an_episode():
    early, late, never = deaths_per_step([10, 30, 100], 100, [0, 20, 100])[:2] + deaths_per_step([20, 20], 100, [0, 20, 100])[1:]
    assert early == pytest.approx(1 / (10 + 20 + 20))
    assert late == pytest.approx(1 / (10 + 80)), "at the limit nobody died"
    assert math.isnan(never), "nobody lived so long"
    assert deaths_per_step([100], 200, [0, 100]) == [0.01], "below the limit somebody did"


def test_deaths_are_told_of_games_whose_m_foresees_them():
    row = next(row for row in deaths_table(of_shipped(get_task("doom"))).data if row["agent"].endswith("shipped"))
    assert len(row["game"]) == len(row["dream"]) == len(row["steps"]) - 1 and row["steps"][-1] == 2100
    assert not deaths_table(of_shipped(get_task("carracing"))).rows


def test_a_step_of_a_held_action_counts_as_its_frames():
    evidence = of_shipped(get_task("doom"))
    agent = evidence.agents[-1]
    scores = agent.scores | {"lengths": [50, 525], "dream": agent.scores["dream"] | {"lengths": [525, 525], "steps": 525}}
    settings = dataclasses.replace(agent.settings, world=dataclasses.replace(agent.settings.world, repeat=4))
    held = dataclasses.replace(evidence, agents=[dataclasses.replace(agent, settings=settings, scores=scores)], systems=[])
    (row,) = deaths_table(held).data
    assert row["game"] == pytest.approx([1000 / 500, 0, 0, 0]) and row["dream"] == [0, 0, 0, 0], "who reaches the limit did not die"


def test_losses_are_means_over_the_rows_near_a_step_beside_the_authors():
    evidence = of_shipped(get_task("doom"))
    rows = [{"step": s, "loss": 40.0, "reconstruction": float(s), "kl": 32.0} for s in (300, 390, 400, 500, 600, 610, 1300)]
    table = loss_tables(dataclasses.replace(evidence, logs={"vae": rows, "rnn": []}))[0]
    assert [r["step"] for r in table.data] == [500, 1000], "as far as ours goes"
    near_one, beyond = (r["ours"]["reconstruction"] for r in table.data)
    assert near_one == pytest.approx(500), "400, 500 and 600, a fifth of the step away at most"
    assert beyond == 1300, "none is as near as a fifth: the next one"
    assert table.rows[0][2] == "500 / 31.94 / +1465%", "of one batch, there is no deviation"
    long = [{"step": 5000, "loss": 40.0, "reconstruction": 10.0, "kl": 32.0}]
    table = loss_tables(dataclasses.replace(evidence, logs={"vae": long, "rnn": []}))[0]
    assert table.rows[-1][2] == "10 / 12.52 ± 4.2 / -20%"


def test_scores_of_another_v_m_or_c_are_refused(run, task):
    for path, part in (("vae/weights.npz", "V"), ("rnn/weights.npz", "M"), ("controller/best.npz", "C")):
        whole = (run / path).read_bytes()
        save_arrays(run / path, {"w": np.ones(7)}, {})
        row = full_row(task, run)
        assert (row["verdict"], row["reason"]) == ("refused", f"scored with another {part}") and "mean" not in row
        (run / path).write_bytes(whole)
    assert full_row(task, run)["verdict"] == "reproduced"
    save_arrays(run / "vae" / "weights.npz", {"w": np.ones(7)}, {})
    result = run_python("controller/verify.py", "carracing", "--run", run)
    assert result.returncode == 1 and "refused: carracing's run (scored with another V): score again" in result.stderr


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"render": "fast"}, "fast drawing"),
        ({"max_steps": 100}, "episodes of 100 steps"),
        ({"episodes": 99}, "99 episodes, the paper's 100"),
    ],
)
def test_other_conditions_are_not_compared(run, task, changes, part):
    scored(run, np.full(100, 900.0), **changes)
    row = full_row(task, run)
    assert row["verdict"] == "not comparable" and part in row["reason"] and "p" not in row


def test_a_c_that_is_not_scored_is_not_run(run, task):
    (run / "evaluate" / "scores.json").unlink()
    row = full_row(task, run)
    assert (row["verdict"], row["reason"]) == ("not run", "not scored yet")


def test_a_c_of_no_row_of_the_papers_stands_apart(run, task):
    settings = task.scales["paper"]
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, features="zch", hidden=3))
    write_json(run / "settings.json", settings.to_dict())
    rows = score_rows(of_run(task, run)).data
    assert [row["verdict"] for row in rows] == ["not run"] * 3 + [""]
    assert rows[-1]["row"] == "zch, 3 hidden units" and rows[-1]["mean"] == pytest.approx(900, abs=10)


def test_a_c_that_acts_or_sees_otherwise_than_the_papers_says_so(run, task):
    """The paper's chooses an action for each frame, and sees a sample of V's posterior."""
    settings = task.scales["paper"]
    world = dataclasses.replace(settings.world, repeat=4)
    c = dataclasses.replace(settings.controller, latents="mean", start="shipped", search="directions")
    write_json(run / "settings.json", dataclasses.replace(settings, world=world, controller=c).to_dict())
    tables = {table.title: table for table in all_tables(of_run(task, run))}
    otherwise = ", actions held for 4 frames, V's mean seen in play, directions searched"
    assert tables["Scores"].data[-1]["row"] == f"Full world model, z and h{otherwise}"
    assert f"64 x 16 episodes{otherwise}" in tables["Evolution of run"].notes[0]


def test_dreams_of_another_temperature_are_not_put_beside_the_papers():
    """Those of a row are of its C's training (evaluate.py --temperature scores others)."""
    evidence = of_shipped(get_task("doom"))
    agent = next(a for a in evidence.agents if a.name == "tau-1-seed-1")
    other = agent.scores | {"dream": agent.scores["dream"] | {"temperature": 1.25}}
    changed = dataclasses.replace(evidence, agents=[agent, dataclasses.replace(agent, scores=other)])
    usual, elsewhere = (row for row in score_rows(changed).rows if row[-2] == agent.name)
    assert usual[2] == "983.3 ± 624.2" and elsewhere == usual[:2] + [""] + usual[3:]


def test_the_same_c_under_other_conditions_is_compared_episode_by_episode(run, task):
    usual = json.loads((run / "evaluate" / "scores.json").read_text())
    offsets = np.random.default_rng(1).normal(3, 1, 100)
    fast = usual | {"render": "fast", "returns": [value + offset for value, offset in zip(usual["returns"], offsets)]}
    write_json(run / "evaluate" / "fast.json", fast)
    write_json(run / "evaluate" / "other.json", fast | {"seeds": usual["seeds"][::-1]})
    write_json(run / "evaluate" / "another_c.json", fast | {"fingerprints": {}})
    (table,) = [table for table in all_tables(of_run(task, run)) if table.title == "Same C, same episodes"]
    ((_, condition, *_),) = table.rows
    assert condition == "fast instead of official"
    (row,) = table.data
    half = 1.984 * np.std(offsets, ddof=1) / 10
    assert row["difference"] == pytest.approx(offsets.mean()) and row["p"] < 1e-6
    assert row["difference_ci95"] == pytest.approx([offsets.mean() - half, offsets.mean() + half], abs=1e-3)


def test_forecasts_of_the_v_and_m_that_are_there_are_shown_side_by_side(run, task):
    found = {"memory": "rssm", "recordings": "abc", "loss": 0.7, "loss_z": 0.5, "deaths": 4, "recall": 0.25, "precision": 0.5}
    found |= {f"{what}_{k}": value * k for what, value in (("open", 0.01), ("still", 0.02)) for k in (1, 5, 15, 50)}
    found |= {"fingerprints": fingerprints(model_paths("carracing", run))}
    write_json(run / "rnn" / "foreseen_skilled.json", found)
    write_json(run / "rnn" / "foreseen_other.json", found | {"fingerprints": {"vae": "another"}})
    (table,) = [table for table in all_tables(of_run(task, run)) if table.title == "What M foresees"]
    assert table.rows == [
        ["skilled", "run", "rssm", "0.500", "0.010", "0.050", "0.150", "0.500", "25%", "50%"],
        ["skilled", "", "the frame stays as it is", "", "0.020", "0.100", "0.300", "1.000", "", ""],
    ]


@pytest.fixture(params=["carracing", "doom"])
def evidence(request):
    return of_shipped(get_task(request.param))


def test_what_comes_with_the_project(evidence):
    assert not [agent.stale for agent in evidence.agents if agent.stale]
    tables = {table.title: table for table in all_tables(evidence)}
    assert {row["verdict"] for row in tables["Parameters"].data} == {"reproduced"}
    scored = {agent.scores["mean"] for agent in evidence.agents if agent.scores}
    assert scored and scored <= {row.get("mean") for row in tables["Scores"].data}


def test_the_readme_and_what_is_written_down_say_what_verify_says(evidence):
    tables = all_tables(evidence)
    readme = "".join((ROOT / floor / "README.md").read_text() for floor in ("rnn", "controller"))
    for table in tables:
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert table.title not in ("Scores", "Two memories, two trainers", "What M foresees") or "\n".join(lines) in readme
    written = (ROOT / "controller" / "verified" / f"{evidence.task.name}.md").read_text()
    assert all(table.markdown() in written for table in tables)


def test_the_command(run, tmp_path):
    result = run_python("controller/verify.py", "carracing", "--run", run, "--json", tmp_path / "v.json", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "| Full world model, z and h" in result.stdout and "reproduced" in result.stdout
    data = json.loads((tmp_path / "v.json").read_text())["carracing"]["tables"]
    assert data["Scores"][-1]["verdict"] == "reproduced"
    assert (tmp_path / "out" / "carracing.md").read_text().startswith("## CarRacing")
    assert (tmp_path / "out" / "carracing.png").stat().st_size > 10000


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("all", "--run", "x"), "--run is one game's"),
        (("doom", "--run", "no/such"), "no/such is no run"),
        (("dom",), "dom"),
    ],
)
def test_bad_input_is_one_line(words, part):
    result = run_python("controller/verify.py", *words)
    assert result.returncode == 2 and part in result.stderr and result.stderr.count("\n") == 1
