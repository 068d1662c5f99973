"""A running ViZDoom that ends with its parent and leaves nothing behind."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import vizdoom

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


class Engine:
    """One running ViZDoom.

    Args:
        resolution: vizdoom.ScreenResolution.
    """

    def __init__(self, resolution: Any) -> None:
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
        game.set_episode_timeout(0)  # gymnasium's TimeLimit cuts episodes
        self.game = game
        try:
            game.init()
        finally:
            # Both sides have opened and read all: what has no name any more cannot be left behind by a kill.
            _forget_shared_memory()
            shutil.rmtree(self._folder, ignore_errors=True)

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
        try:
            self.game.close()
        except CRASHES:
            pass  # it is gone already


def _forget_shared_memory() -> None:
    """Take the names of this process' shared memory with its engines out of /dev/shm. It lives on until both are gone."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for name in {line.split()[-1] for line in lines if "/dev/shm/ViZDoom" in line and not line.endswith("(deleted)")}:
        Path(name).unlink(missing_ok=True)
