"""The moving picture of the README: the shipped agent's game | what V keeps of it | M's dream of it, told the actions alone.

    python controller/tools/moving.py carracing

Writes controller/shipped/TASK/moving.gif. M dreams on from every 50th step.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from env.run.command import parser, resolve, run_command
from env.run.compute import limit_threads
from env.run.weights import shipped

PICTURES = 70  # one for every 4 steps
SKIPPED = 15  # CarRacing's zoom


def main() -> None:
    task, _, _ = resolve(parser(__doc__ or "", "moving").parse_args(), "moving")
    limit_threads()
    from controller.library import load
    from controller.results.pictures import enlarged, open_loop_frames, save_gif

    game = load(task.name)
    pictures = open_loop_frames(task, game.settings, game.agent)[SKIPPED : SKIPPED + PICTURES]
    pictures = [enlarged(picture[::3, ::3], 2) for picture in pictures]  # of frames three times as large, for a smaller file
    target = shipped("controller", task.name, "moving.gif")
    save_gif(pictures, target, task.frame_rate / game.settings.world.repeat)
    print(f"{target}: {len(pictures)} pictures, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
