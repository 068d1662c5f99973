"""World Models as an installed package: `pip install .`, then the command `world-models`, or `import world_models`.

In the repository, the code's packages are called env, vae, rnn and controller, as the original's folders are; installed, they lie within
this one, so that no package called `env` is planted among others' packages. They are put at the end of the path of a process that imports
this one: it must have no `env`, `vae`, `rnn` or `controller` of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FLOORS = Path(__file__).resolve().parent
if str(FLOORS) not in sys.path:
    sys.path.append(str(FLOORS))

if TYPE_CHECKING:
    from controller.library import Game


def load(task: str, run: str | Path | None = None) -> Game:
    """The agent that comes with the project, or a run's, with its world, its dream, V and M: see controller/library.py."""
    from controller.library import load as load_game

    return load_game(task, run)
