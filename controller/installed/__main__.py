"""The command `world-models`: what `bash run.sh` and the scripts are in the repository.

world-models carracing --scale smoke      every stage, to ./runs/carracing-smoke
world-models web doom                     a page on which to watch and to play the dream
world-models score carracing --shipped    and so on: see COMMANDS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMMANDS = {
    "web": "controller/web.py",
    "play": "controller/play.py",
    "score": "controller/evaluate.py",
    "verify": "controller/verify.py",
    "extract": "controller/extract.py",
    "train-v": "vae/train.py",
    "encode": "vae/encode.py",
    "train-m": "rnn/train.py",
    "train-c": "controller/train.py",
    "learn-c": "controller/learn.py",
    "report": "controller/report.py",
}


def main() -> None:
    """Run the script that the first word names, or, where it is a task's name, all stages of it."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: world-models carracing|doom|GAME.py [flags]          all stages")
        print(f"       world-models {'|'.join(COMMANDS)} TASK [flags]")
        print("--help after a command or a task shows its flags")
        sys.exit(0 if words else 2)
    script, flags = (COMMANDS[words[0]], words[1:]) if words[0] in COMMANDS else ("controller/pipeline.py", words)
    path = Path(__file__).resolve().parent / script
    # A process of its own: the scripts set up their path and threads before anything is imported.
    os.execv(sys.executable, [sys.executable, str(path), *flags])


if __name__ == "__main__":
    main()
