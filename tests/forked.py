"""A test run in a process that has TensorFlow imported already: forked from one that did nothing else, so that each saves the 6 s of it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

PRELOADED = ["tensorflow", "tensorflow_probability", "keras", "cma", "gymnasium", "pytest"]


def _run(folder: str, words: list[str], out: str) -> None:
    # Nothing of the project itself may be imported here before the folder's own is found.
    os.chdir(folder)
    tests = str(Path(__file__).resolve().parent)
    sys.path[:] = [folder, *(path for path in sys.path if path not in ("", tests, str(Path(tests).parent)))]
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import pytest

    code = int(pytest.main(words))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def pytest_in(folder: Path, *words: str) -> tuple[int, str]:
    """Run pytest with these arguments in a copy of the project: its exit code, and what it printed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # read when the server starts, with the first process
    out = folder / "printed.txt"
    process = context.Process(target=_run, args=(str(folder), list(words), str(out)))
    process.start()
    process.join()
    return process.exitcode or 0, out.read_text(errors="replace") if out.exists() else ""
