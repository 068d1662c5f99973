"""What runs in a process that has TensorFlow imported already: forked from one that did nothing else, so that each saves the 5 s of it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = ["tensorflow", "tensorflow_probability", "keras", "cma", "gymnasium", "pytest"]


def _start(function: Callable[..., None], *words: Any) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # read when the server starts, with the first process
    process = context.Process(target=function, args=words)
    process.start()
    return process


def _look_first_in(folder: str) -> None:
    """For modules, and no longer where these tests and their project lie."""
    tests = Path(__file__).resolve().parent
    sys.path[:] = [folder, *(path for path in sys.path if path not in ("", str(tests), str(tests.parent)))]


def _write_to(out: str, *descriptors: int) -> None:
    opened = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    os.close(opened)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _pytest(folder: str, words: list[str], out: str) -> None:
    # Nothing of the project itself may be imported here before the folder's own is found.
    os.chdir(folder)
    _look_first_in(folder)
    _write_to(out, 1, 2)
    import pytest

    _leave(int(pytest.main(words)))


def pytest_in(folder: Path, *words: str) -> tuple[int, str]:
    """Run pytest with these arguments in a copy of the project: its exit code, and what it printed."""
    out = folder / "printed.txt"
    process = _start(_pytest, str(folder), list(words), str(out))
    process.join()
    return process.exitcode or 0, out.read_text(errors="replace") if out.exists() else ""


def _script(words: list[str], folder: str, environment: dict[str, str], out: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _look_first_in(str(Path(words[0]).parent))
    sys.argv[:] = words
    _write_to(out + ".out", 1)
    _write_to(out + ".err", 2)
    code: Any = 1
    try:
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    atexit._run_exitfuncs()
    _leave(code)


def script(words: list[str], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a script with these arguments, as `subprocess.run([sys.executable, *words])` would, but with an empty standard input.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "printed")
        process = _start(_script, words, os.getcwd(), environment, out)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        printed = [Path(out + end).read_text(errors="replace") for end in (".out", ".err")]
        return subprocess.CompletedProcess(words, process.exitcode, *printed)
