"""A running ViZDoom that ends with its parent, leaves nothing behind, and does not keep anyone waiting for ever."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import vizdoom

from env.run.errors import UserError
from env.run.ranks import STUCK

# A killed parent would leave its engine running for ever, and an engine leaves _vizdoom where it stands. So it is started
# through this: stand in a folder of its own, ask the kernel to be killed with the parent, and become the engine. (A shell
# script, since a path with a space cannot stand in a script's first line.)
STARTER = """#!/bin/sh
exec {python} -IS -c {code} "$@"
"""
CODE = """
import ctypes, os, signal, sys
if sys.argv[1:] == [{probe!r}]: sys.exit()
os.chdir({folder!r})
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != {parent}: sys.exit("the parent is gone already")
os.execv({engine!r}, [{engine!r}, *sys.argv[1:]])
"""
PROBE = "--can-it-start"

CRASHES = (
    vizdoom.ViZDoomErrorException,
    vizdoom.ViZDoomUnexpectedExitException,
    vizdoom.ViZDoomIsNotRunningException,
    vizdoom.SharedMemoryException,
    vizdoom.MessageQueueException,
)


HANGS = 60.0  # seconds after which an engine that has not answered is killed; a step takes milliseconds
STARTS = 120.0  # seconds that an engine may take to start; on a busy machine it has taken more than one
CAN_START = STARTS + 60.0  # seconds that a trial may take: Python and an engine start in it
TRIAL = """
import sys
sys.path.insert(0, {root!r})
import vizdoom
from env.worlds.engine import Engine
Engine(vizdoom.ScreenResolution.RES_160X120, tried=True).close()
"""


class Trial:
    """Whether engines start on this machine, found out once in each process: where one cannot, ViZDoom ends the process that wants it with
    a segmentation fault, or waits for ever."""

    done = False

    @classmethod
    def make(cls) -> None:
        """Start an engine in a process of its own.

        Raises:
            UserError: it does not come up.
        """
        if cls.done:
            return
        words = [sys.executable, "-c", TRIAL.format(root=str(Path(__file__).resolve().parents[2]))]
        try:
            answer = subprocess.run(words, capture_output=True, text=True, timeout=CAN_START, check=False)
        except subprocess.TimeoutExpired:
            raise UserError(f"Doom's engine does not start: no answer within {CAN_START:.0f} s; {ADVICE}") from None
        if answer.returncode:
            said = answer.stderr.strip().splitlines()
            raise UserError(f"Doom's engine does not start (exit code {answer.returncode}{f', {said[-1]}' if said else ''}); {ADVICE}")
        cls.done = True


ADVICE = "is vizdoom installed whole, and are there memory and 10 MB in /dev/shm for each engine?"


class Engine:
    """One running ViZDoom.

    Args:
        resolution: vizdoom.ScreenResolution.
        tried: whether it is known that engines start here.

    Raises:
        UserError: they do not.
    """

    def __init__(self, resolution: Any, tried: bool = False) -> None:
        if not tried:
            Trial.make()
        self._folder = Path(tempfile.mkdtemp(prefix="take_cover_"))
        game = vizdoom.DoomGame()
        game.load_config(str(Path(vizdoom.scenarios_path) / "take_cover.cfg"))
        game.set_doom_config_path("/dev/null")
        starter = self._starter()
        if starter:
            game.set_vizdoom_path(str(starter))
        game.set_screen_resolution(resolution)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_render_hud(True)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_objects_info_enabled(True)  # where monsters and fireballs are: for recordings, never for who plays
        game.set_episode_timeout(0)  # gymnasium's TimeLimit cuts episodes
        self.game = game
        self.pid: int | None = None
        self.others = children()
        self.starts = True
        self.asked: float | None = time.monotonic()  # since when it owes an answer
        self.question: float | None = None  # the watchdog's: which answer it waits for, by when it was asked
        self.waited = 0.0  # and for how long
        Watchdog.watch(self)
        try:
            game.init()
        finally:
            self.starts, self.asked = False, None
            # Both sides have opened and read all: what has no name any more cannot be left behind by a kill.
            _forget_shared_memory()
            shutil.rmtree(self._folder, ignore_errors=True)
        self.pid = next(iter(children() - self.others), None)

    @contextmanager
    def answering(self) -> Iterator[Any]:
        """Within it, the game is asked something. If it does not answer in time, it is killed, which is a crash like any other."""
        self.asked = time.monotonic()
        try:
            yield self.game
        finally:
            self.asked = None

    def _starter(self) -> Path | None:
        """The script that starts the engine, or None where there can be none: ViZDoom would end the whole process."""
        if sys.platform != "linux":
            return None
        path, engine = self._folder / "start", str(Path(vizdoom.__file__).with_name("vizdoom"))
        code = CODE.format(probe=PROBE, folder=str(self._folder), parent=os.getpid(), engine=engine)
        path.write_text(STARTER.format(python=shlex.quote(sys.executable), code=shlex.quote(code)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        try:
            subprocess.run([path, PROBE], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            warnings.warn(f"{path} cannot run ({error}): Doom's engines will outlive this process if it is killed", stacklevel=2)
            return None
        return path

    def close(self) -> None:
        """End the engine, and leave nothing behind."""
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)  # ViZDoom would wait for ever for one that hangs, and let no other thread run meanwhile
            except ProcessLookupError:
                pass
        try:
            self.game.close()
        except CRASHES:
            pass  # it is gone already


class Watchdog(threading.Thread):
    """Kills engines of this process that do not answer, and ends the process where ViZDoom waits on even then. One thread for all; it ends
    with the process."""

    _one: Watchdog | None = None

    def __init__(self) -> None:
        super().__init__(daemon=True, name="engines")
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()

    @classmethod
    def watch(cls, engine: Engine) -> None:
        """From now on, an eye is kept on it."""
        if cls._one is None:
            cls._one = cls()
            cls._one.start()
        cls._one._engines.add(engine)

    def run(self) -> None:
        looked = time.monotonic()
        while True:
            pause = min(1.0, HANGS / 4)
            time.sleep(pause)
            now = time.monotonic()
            # Where the whole process was stopped (Ctrl-Z, kill -STOP), engines had no time to answer.
            passed, looked = min(now - looked, 2 * pause), now
            for engine in list(self._engines):
                self._wait_for(engine, passed)

    @staticmethod
    def _wait_for(engine: Engine, passed: float) -> None:
        """So many seconds more have passed: kill the engine, once, if it has had its time; end this process if that changed nothing. An
        engine that still starts is left alone, for ViZDoom ends its process with a segmentation fault where that is killed."""
        asked, before = engine.asked, engine.waited
        if asked is None or asked != engine.question:
            engine.question, engine.waited = asked, 0.0
            return
        engine.waited = before + passed
        if engine.starts:
            if engine.waited > STARTS:
                _end(f"Doom's engine has not started within {STARTS:.0f} s; {ADVICE} Ending")
        elif before <= HANGS < engine.waited:
            pid = engine.pid or next(iter(children() - engine.others), None)
            if pid is None:
                return
            print(f"warning: Doom's engine {pid} has not answered for {HANGS:.0f} s: killed", file=sys.stderr, flush=True)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        elif engine.waited > 2 * HANGS:  # killed in the middle of a message, an engine can leave ViZDoom waiting for its end for ever
            _end("ViZDoom waits for an engine that is gone: ending")


def _end(why: str) -> None:
    """End this process, whatever its other threads do."""
    print(f"error: {why}; the same command goes on from here", file=sys.stderr, flush=True)
    os._exit(STUCK)


def children() -> set[int]:
    """The processes that this one has started and that still run."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found |= {int(word) for word in path.read_text().split()}
        except OSError:  # that thread has just ended
            pass
    return found


def _forget_shared_memory() -> None:
    """Take the names of this process' shared memory with its engines out of /dev/shm. It lives on until both are gone."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for name in {line.split()[-1] for line in lines if "/dev/shm/ViZDoom" in line and not line.endswith("(deleted)")}:
        Path(name).unlink(missing_ok=True)
