"""SIGKILL at random moments of every stage, and whether the same command then comes to the same end.

    python tests/kills.py --json tests/benches/kills.json
    python tests/kills.py --stages controller evaluate --json tests/benches/kills.json
    python tests/kills.py --rounds --json tests/benches/kills_rounds.json

Each stage of a small CarRacing run is made once without interruption; then again, killed so many times at random moments, from its start to
its end: one rank, or the launcher with all of them. Compared are the stage's results, to the bit: recorded episodes, weights, the logs
but for times, C's best solution, every return of a scoring. With --stages only those are killed, and what the file says of others stays
there. With --rounds it is run.sh's two rounds of Doom, killed in each stage of the second one, with all its processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

import numpy as np

from env.episodes import FRAMES, read_episode
from env.run.files import REPOSITORY, load_arrays, read_json, read_jsonl, write_json
from env.run.settings import load_settings

WORDS = ["carracing", "--scale", "smoke", "--max-steps", "100"]
# Stage: its command, how many ranks, how often it is killed, and what makes it last some seconds.
STAGES: dict[str, tuple[str, int, int, list[str]]] = {
    "extract": ("controller/extract.py", 3, 10, ["--episodes", "60"]),
    "vae": ("vae/train.py", 1, 10, ["--limit-steps", "150", "--epochs", "3"]),
    "encode": ("vae/encode.py", 1, 0, []),
    "rnn": ("rnn/train.py", 1, 10, ["--steps", "400"]),
    "controller": ("controller/train.py", 3, 20, ["--generations", "40", "--eval-every", "5"]),
    "evaluate": ("controller/evaluate.py", 3, 10, []),
}


SCORED = 30  # episodes of the scoring


def score_more(run: Path) -> None:
    """Let the run's own scoring be of SCORED episodes. (One with a flag for it is none of the run's.)"""
    settings = load_settings(run / "settings.json")
    settings = dataclasses.replace(settings, evaluate=dataclasses.replace(settings.evaluate, episodes=SCORED))
    write_json(run / "settings.json", settings.to_dict(), seal=True)


def start(stage: str, run: Path) -> subprocess.Popen:
    """The stage's command, in a process group of its own."""
    script, ranks, _, flags = STAGES[stage]
    words = [sys.executable, str(REPOSITORY / script), *WORDS, "--run", str(run), *flags]
    words = [str(Path(sys.executable).with_name("mpirun")), "-np", str(ranks), *words] if ranks > 1 else words
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(stage: str, run: Path) -> float:
    """Let the stage come to its end; returns how long it took.

    Raises:
        RuntimeError: it failed.
    """
    began, child = time.monotonic(), start(stage, run)
    said = child.communicate()[1]
    if child.returncode:
        raise RuntimeError(f"{stage} does not go on: exit code {child.returncode}, {said.strip().splitlines()[-1:]}")
    return time.monotonic() - began


def kill(child: subprocess.Popen, run: Path, rng: np.random.Generator) -> None:
    """Kill one of the Python processes of a stage; or all, and what started them, in one moment."""
    words = ["pgrep", "-f", f"python.*--run {run}"]
    pids = [int(word) for word in subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()]
    if pids and rng.random() < 0.5:
        pids = [pids[int(rng.integers(len(pids)))]]
    else:
        pids = [*pids, child.pid]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    child.communicate()


def result(stage: str, run: Path) -> Any:
    """What the stage has made, without times."""
    folder = run / stage
    made: dict[str, Any] = {"log": [_timeless(row) for row in read_jsonl(folder / "log.jsonl")] if (folder / "log.jsonl").exists() else []}
    if stage == "extract":
        made["episodes"] = [read_episode(path, FRAMES) for path in sorted((folder / "episodes").glob("*.npz"))]
    for name in ("weights.npz", "best.npz", "mean.npz"):
        if (folder / name).exists():
            made[name] = load_arrays(folder / name)
    if stage == "controller":
        made["fitness"] = [row["fitness"] for row in read_jsonl(folder / "fitness.jsonl")]
    if stage == "evaluate":
        made["log"] = sorted(made["log"], key=lambda row: row["episode"])
        made["returns"] = read_json(folder / "scores.json")["returns"]
    return made


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "seconds" not in key and key != "cores"}


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


def campaign(stage: str, whole: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Kill a stage again and again in a copy of the run before it, let it end, and compare."""
    kills, killed = STAGES[stage][2], Path(f"{whole}-{stage}")
    if stage == "evaluate":
        score_more(whole)
    shutil.copytree(whole, killed, ignore=shutil.ignore_patterns(stage))
    seconds = finish(stage, whole)
    done, moments, ended = 0, [], 0
    while done < kills:
        child, moment = start(stage, killed), float(rng.uniform(0.2, 1.0)) * seconds
        try:
            child.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            kill(child, killed, rng)
            done += 1
            moments.append(round(moment, 2))
            continue
        shutil.rmtree(killed / stage)  # it had ended: once more from the start
        ended += 1
    finish(stage, killed)
    equal = same(result(stage, whole), result(stage, killed))
    shutil.rmtree(killed)
    return {"kills": kills, "seconds": round(seconds, 1), "moments": moments, "begun_anew": ended, "equal": equal}


ROUNDS = [
    "doom",
    "--scale",
    "smoke",
    "--max-steps",
    "120",
    "--extract-episodes",
    "5",
    "--rnn-window",
    "20",
    "--controller-dream-steps",
    "60",
]
ROUNDS += [
    "--evaluate-episodes",
    "4",
    "--rounds-explore",
    "0.5",
    "--rounds-memory-steps",
    "60",
    "--rounds-generations",
    "6",
    "--rounds",
    "2",
]


def rounds_campaign(run: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Two rounds without interruption; then the second one once more, killed in each of its stages."""
    words = [sys.executable, str(REPOSITORY / "controller/pipeline.py"), *ROUNDS, "--run", str(run), "--ranks", "2", "--no-estimate"]

    def go_on() -> subprocess.Popen:
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def to_the_end() -> None:
        if go_on().wait():
            raise RuntimeError("the rounds do not go on")

    to_the_end()
    second, whole = run / "rounds" / "2", {}
    for stage in STAGES:
        whole[stage] = result(stage, second)
    shutil.rmtree(run / "rounds")
    moments: dict[str, float] = {}
    for stage in STAGES:
        child = go_on()
        while not (second / stage / "stage.json").exists():
            time.sleep(0.05)
            if child.poll() is not None:
                raise RuntimeError(f"it ended before {stage}")
        moments[stage] = round(float(rng.uniform(0.0, 3.0)), 2)
        time.sleep(moments[stage])
        child_pids = subprocess.run(["pgrep", "-f", f"python.*--run {run}"], capture_output=True, text=True, check=False).stdout.split()
        for pid in (child.pid, *map(int, child_pids)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        child.wait()
    to_the_end()
    return {"moments": moments, "equal": {stage: same(whole[stage], result(stage, second)) for stage in STAGES}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write what came of it")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="which are killed (default: all)")
    parser.add_argument("--rounds", action="store_true", help="kill the second of two rounds instead")
    parsed = parser.parse_args()
    rng, found = np.random.default_rng(parsed.seed), {}
    if parsed.rounds:
        with tempfile.TemporaryDirectory() as folder:
            found = rounds_campaign(Path(folder) / "run", rng)
        print(found)
        if parsed.json:
            write_json(parsed.json, {"seed": parsed.seed, "rounds": found})
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "run"
        for stage, (_, _, kills, _) in STAGES.items():
            if kills and stage in parsed.stages:
                found[stage] = campaign(stage, whole, rng) if whole.exists() else first(stage, whole, rng)
                print(f"{stage}: {found[stage]}", flush=True)
            else:
                whole.mkdir(exist_ok=True)
                finish(stage, whole)
    if parsed.json:
        before = read_json(parsed.json)["stages"] if parsed.json.exists() else {}
        write_json(parsed.json, {"seed": parsed.seed, "stages": before | found})


def first(stage: str, whole: Path, rng: np.random.Generator) -> dict[str, Any]:
    """The campaign of a stage before which there is nothing."""
    whole.mkdir()
    return campaign(stage, whole, rng)


if __name__ == "__main__":
    main()
