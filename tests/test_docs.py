"""The READMEs: links lead somewhere, commands and flags exist, numbers are those of the files; and the tour runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, run_python

from controller.results.scores import mean_and_std
from controller.web import PAGE
from env.run.weights import shipped
from env.tasks import TASKS

READMES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))]
PIPELINE = "controller/pipeline.py"
# The words of run.sh that stand for a script.
WORDS = {word: f"controller/{word}.py" for word in ("web", "play", "verify")} | {"score": "controller/evaluate.py"}


def anchors(text: str) -> set[str]:
    """Those that GitHub makes of the headings."""
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def commands() -> list[tuple[str, str]]:
    """(README, line) of each command in their shell blocks, continued lines joined, and in their prose."""
    found = []
    for readme in READMES:
        for block in re.findall(r"```bash\n(.*?)```", readme.read_text(), flags=re.S):
            found += [(readme.parent.name, line.split(" #")[0].strip()) for line in block.replace("\\\n", " ").splitlines() if line.strip()]
        prose = re.sub(r"```.*?```", "", readme.read_text(), flags=re.S).replace("\n", " ")
        found += [(readme.parent.name, line) for line in re.findall(r"`((?:python|mpirun|bash run\.sh) [^`]+)`", prose)]
    return found


def script_of(words: list[str]) -> str | None:
    """The script that a command line runs; None for what is not ours."""
    if words[:2] == ["bash", "run.sh"]:
        word = words[2]
        assert word in (*WORDS, "test", "setup", *TASKS, "TASK") or word.endswith(".py"), f"run.sh does not know {word}"
        return None if word in ("test", "setup") else WORDS.get(word, PIPELINE)
    named = [word for word in words if word.endswith(".py") and "/" in word and not word.startswith("tests/games")]
    return named[0] if "python" in words else None


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1500


def test_no_figure_is_still_to_be_filled_in():
    """Such as @MEAN@, which once came as far as a reader."""
    text = "\n".join(readme.read_text() for readme in READMES)
    assert not re.findall(r"@[A-Z_]+@|\bTODO\b|\bXXX\b|\bFIXME\b|\?\?\?", text)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_links_lead_somewhere(readme):
    for target in re.findall(r"\]\(([^)]+)\)", readme.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (readme.parent / path).resolve() if path else readme
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_files_that_are_named_exist(readme):
    for name in re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|json|md|sh|png|ipynb))`", readme.read_text()):
        places = [ROOT / name, readme.parent / name, *(place for depth in ("*", "*/*", "*/*/*") for place in ROOT.glob(f"{depth}/{name}"))]
        made = {"report.md", "scores.json", "reconstructions.png", "openloop.gif", "settings.json", "stage.json", "my_game.py"}
        made |= {"rounds.md", "rounds.json"}
        theirs = re.match(
            r"(carracing|doomrnn|vae|rnn|log)/|extract.py|series.py|model.py|es.py|(\w+_)?train.py|env.py|plot_training", name
        )
        assert any(place.exists() for place in places) or name.split("/")[-1] in made or theirs, name


def test_commands_and_flags_exist():
    asked: dict[str, set[str]] = {}
    for where, line in commands():
        script = script_of(line.split())
        if script is None:
            continue
        assert (ROOT / script).exists(), f"{where}: {line}"
        flags = {word.split("=")[0] for word in line.split(script if script in line else "run.sh")[-1].split() if word.startswith("--")}
        asked.setdefault(script, set()).update(flags)
    assert len(asked) >= 7
    for script, flags in asked.items():
        known = set(re.findall(r"--[\w-]+", run_python(script, "--help").stdout))
        assert flags <= known, f"{script}: {flags - known}"


def test_run_sh_knows_the_words():
    text = (ROOT / "run.sh").read_text()
    assert all(f"bash run.sh {word} " in text for word in WORDS)


@pytest.mark.parametrize("task", ["carracing", "doom"])
def test_the_first_pages_scores_are_the_files(task):
    scores = json.loads(shipped("controller", task, "scores.json").read_text())
    text = (ROOT / "README.md").read_text()
    for found in (scores, *([scores["dream"]] if scores.get("dream") else [])):
        low, high = found["ci95"]
        assert mean_and_std(found) in text and f"{low:.0f} .. {high:.0f}" in text


@pytest.mark.parametrize("task", ["carracing", "doom"])
def test_moving_pictures_are_small(task):
    assert shipped("controller", task, "moving.gif").stat().st_size < 1.5e6


def test_the_pages_code_is_all_there():
    assert {path.suffix for path in PAGE.iterdir() if path.is_file()} >= {".html", ".css", ".js"}


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path):
    """The code of tour.ipynb, cell by cell in one namespace, in under two minutes of a quiet machine."""
    cells = json.loads((ROOT / "controller" / "tour.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert len(cells) > 8
    (tmp_path / "tour.py").write_text(code)
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "tour.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "generation 5" in result.stdout
