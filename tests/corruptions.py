"""Random damage to all kinds of files that a run holds, and what reading them makes of it.

    python tests/corruptions.py --trials 1000 --json tests/benches/corruptions.json

A small run is made; half of the time V, M and C are taken for unfinished, and go on from their last checkpoint. Then, again and again,
one of its files is cut, flipped, overwritten, emptied, lengthened, swapped with another of its kind or taken away, and all that the
commands read is read. Counted are:

    refused     one line says what is wrong
    said        a warning does, and what is damaged is left out
    harmless    what was read is what was there before
    silent      it is not, and nothing was said
    traceback, hang
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import contextlib
import dataclasses
import io
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from env.episodes import FRAMES, LATENTS, read_episode
from env.run.checkpoints import Checkpoints
from env.run.errors import UserError
from env.run.files import REPOSITORY, read_json, read_jsonl, write_json
from env.run.rundir import Run, saved_settings
from env.run.settings import STAGES
from env.tasks import get_task

SECONDS = 20  # that a reading may take


def make_run(path: Path) -> None:
    """A small whole run of CarRacing, of which V, M and C then go on and are not finished again."""
    whole = ["controller/pipeline.py", "carracing", "--scale", "smoke", "--run", str(path), "--no-estimate", "--max-steps", "60"]
    _run(*whole, "--extract-episodes", "4", "--rnn-batch", "3", "--rnn-window", "30", "--ranks", "1")


def _run(*words: str) -> None:
    answer = subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UserError(f"{words[0]} failed: {answer.stderr.strip().splitlines()[-1:]}")


def files_of(path: Path) -> list[Path]:
    """All files that commands read."""
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.suffix in (".npz", ".json", ".jsonl") and not file.name.startswith(".") and "report" not in file.parts
    )


def kind_of(file: Path, run: Path) -> str:
    """What a file is, such as extract/episodes or controller/log.jsonl."""
    relative = file.relative_to(run)
    return str(relative.parent if relative.stem.isdigit() else relative)


def unfinish(path: Path, stage: str) -> None:
    """Let a stage be one that goes on from its checkpoints."""
    record = read_json(path / stage / "stage.json")
    write_json(path / stage / "stage.json", {**record, "finished": False, "files": {}}, seal=True)


def read_all(path: Path) -> Any:
    """What all commands read of a run, as nested plain data."""
    settings = saved_settings(path) or get_task("carracing").scales["paper"]  # as a command without flags
    task, run = get_task(settings.task), Run(path, settings, lock=False)
    found: dict[str, Any] = {"settings": settings.to_dict()}
    for name in STAGES:
        stage = run.stage(name)
        found[name] = [stage.check(), stage.is_finished(), stage.summary]
        if not stage.is_finished() and (stage.check() or not stage.started):
            print(f"to do: {name}", file=sys.stderr)  # as the pipeline says
    for folder, keys in (("extract/episodes", FRAMES), ("encode/latents", LATENTS)):
        found[folder] = [read_episode(file, keys) for file in sorted((path / folder).glob("*.npz"))]
    for name in ("extract", "evaluate"):
        found[f"{name}/log"] = read_jsonl(path / name / "log.jsonl")
    found |= goes_on(run) | models(task, settings, path)
    found["scores"] = read_json(path / "evaluate" / "scores.json", sealed=True)
    return found


def goes_on(run: Run) -> dict[str, Any]:
    """What the stages that train go on from, by the functions that they use."""
    from controller.train import Evolution
    from env.run.training import resumed_log

    found: dict[str, Any] = {}
    for name in ("vae", "rnn"):
        folder = run.path / name
        latest = Checkpoints(folder, run.stage(name).identity()).latest()
        if latest is not None:
            meta = {key: value for key, value in latest.meta.items() if key != "seconds"}
            found[name + " goes on"] = latest.number, latest.arrays, meta
        resumed_log(folder, latest)
        found[f"{name}/log"] = read_jsonl(folder / "log.jsonl")
    evolution = Evolution(run, 867)
    found["controller goes on"] = evolution.generation, evolution.es.arrays(), evolution.best
    found["controller/log"] = read_jsonl(run.path / "controller" / "log.jsonl")
    return found


def models(task: Any, settings: Any, path: Path) -> dict[str, Any]:
    """The weights, as the agent's parts get them."""
    from controller.agent import load_controller
    from env.run.weights import model_paths
    from rnn.dream import Beginnings
    from rnn.memory import load_memory
    from vae.vae import load_vae

    paths = model_paths(task.name, path)
    vae, memory = load_vae(paths.vae, settings.vae.z_size), load_memory(paths.rnn, task, settings)
    first = Beginnings.load(paths.initial, settings.vae.z_size)
    params, shape = load_controller(path / "controller" / "best.npz", task, settings)
    return {
        "V": [np.asarray(v) for v in vae.weights],
        "M": [np.asarray(v) for v in memory.weights],
        "first": [first._mu, first._deviation],
        "C": [params, dataclasses.asdict(shape.controller)],
    }


def same(a: Any, b: Any) -> bool:
    """Whether two readings are equal to the bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)
    return a == b or (a != a and b != b)


Damage = Callable[[bytes, np.random.Generator], bytes]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, max(1, len(data)))]


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return b"x"
    place = int(rng.integers(len(data)))
    return data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    place, length = int(rng.integers(max(1, len(data)))), int(rng.integers(1, 64))
    return data[:place] + rng.bytes(length) + data[place + length :]


DAMAGES: dict[str, Damage] = {
    "cut": _cut,
    "flipped": _flip,
    "overwritten": _overwrite,
    "emptied": lambda data, rng: b"",
    "lengthened": lambda data, rng: data + rng.bytes(int(rng.integers(1, 64))),
}
OTHERS = ("swapped", "gone")


def harm(file: Path, run: Path, how: str, rng: np.random.Generator) -> None:
    """Damage a file."""
    if how == "gone":
        file.unlink()
    elif how == "swapped":  # with another of its kind, or with any that reads alike
        kind = kind_of(file, run)
        alike = [other for other in files_of(run) if other != file and kind_of(other, run) == kind]
        alike = alike or [other for other in files_of(run) if other != file and other.suffix == file.suffix]
        shutil.copyfile(alike[int(rng.integers(len(alike)))], file)
    else:
        file.write_bytes(DAMAGES[how](file.read_bytes(), rng))


class TooLong(Exception):
    """A reading did not end."""


def outcome(path: Path, expected: Any) -> tuple[str, str]:
    """What reading a run comes to, and what it said."""

    def ring(number: int, frame: Any) -> None:
        raise TooLong

    said = io.StringIO()
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said):
            found = read_all(path)
    except UserError as error:
        return "refused", str(error)
    except TooLong:
        return "hang", ""
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    words = said.getvalue().strip()
    return ("harmless" if same(found, expected) else "said" if words else "silent"), words


def campaign(run: Path, trials: int, seed: int, stages: tuple[str, ...] = ("vae", "rnn", "controller")) -> list[dict[str, str]]:
    """Damage and read again and again; half of the time the stages that train are unfinished.

    Returns:
        For each trial its file, its kind, how it was damaged, the outcome, and what was said.
    """
    rng, found = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as folder:
        versions = []
        for name in ("finished", "unfinished"):
            copy = Path(folder) / name
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report", ".lock"))
            for stage in stages if name == "unfinished" else ():
                unfinish(copy, stage)
            versions.append((copy, read_all(copy)))
        for number in range(trials):
            whole, expected = versions[number % 2]
            path = Path(folder) / "damaged"
            shutil.copytree(whole, path)
            kinds: dict[str, list[Path]] = {}
            for file in files_of(path):
                kinds.setdefault(kind_of(file, path), []).append(file)
            kind = sorted(kinds)[int(rng.integers(len(kinds)))]
            file = kinds[kind][int(rng.integers(len(kinds[kind])))]
            before, how = file.read_bytes(), [*DAMAGES, *OTHERS][int(rng.integers(len(DAMAGES) + len(OTHERS)))]
            harm(file, path, how, rng)
            unchanged = file.exists() and file.read_bytes() == before
            result, said = ("harmless", "") if unchanged else outcome(path, expected)
            row = {"file": str(file.relative_to(path)), "kind": kind, "run": whole.name, "how": how, "outcome": result, "said": said}
            found.append({key: value.replace(str(path), "RUN") for key, value in row.items()})
            shutil.rmtree(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a whole run at scale smoke, instead of making one")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the counts")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = parsed.run or Path(folder) / "run"
        if not parsed.run:
            make_run(run)
        rows = campaign(run, parsed.trials, parsed.seed)
    counts = {kind: dict(Counter(row["outcome"] for row in rows if row["kind"] == kind)) for kind in sorted({row["kind"] for row in rows})}
    for kind, outcomes in counts.items():
        print(f"{kind:<40}{outcomes}")
    total = dict(Counter(row["outcome"] for row in rows))
    print(f"{'all':<40}{total}")
    for row in rows:
        if row["outcome"] in ("silent", "traceback", "hang"):
            print(row)
    if parsed.json:
        write_json(parsed.json, {"trials": parsed.trials, "seed": parsed.seed, "all": total, "kinds": counts})


if __name__ == "__main__":
    main()
