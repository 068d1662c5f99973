"""The paper's whole Doom table on one GPU where there is JAX but no TensorFlow: recordings, V, M, and a C for each temperature and seed.

    python controller/tools/doom_jax/train.py OUT
    python controller/tools/doom_jax/train.py OUT --lay-out RUN
    python controller/tools/doom_jax/train.py OUT --smoke

How the agents of Doom that come with the project were made, kept so that such ones can be made again; nothing else uses it, and
JAX is none of its requirements. Games, random policy, seeds and CMA-ES are the project's own modules. The equations of V, M and dreams
(vae/vae.py, rnn/rnn.py, rnn/dream.py) are written down once more, in JAX (models.py, dreams.py); tests/test_doom_jax.py holds them to
the originals: losses, gradients, a dream's steps. What is not the same as in `bash run.sh doom`:

- The clock decides how far each part gets: what is not recorded, learned or evolved in its span of time is left out.
- V learns while the recording goes on, each batch drawn at random from all frames that there are by then. M begins with the episodes that
  there are when V is done, and takes up the others from epoch to epoch.
- M has 8,000 steps instead of 24,400, and its learning rate falls by 0.9997 a step instead of 0.99999.
- A candidate dreams 8 times instead of 16, from noise of its own: candidates share none. Scorings of the mean are of 256 new dreams each
  time, so that the best of them is flattering.
- Products are computed in TF32 where the GPU has it; M learns from latents in single precision.
- V and M are rounded to half precision (as controller/ship.py does) before what follows learns from them.

Writes to OUT: vae/ and rnn/ (weights.npz and log.jsonl), initial.npz, facts.json (sizes, times, what was recorded), and for each C
means.npz (the distribution's mean at every scoring) and log.jsonl. With --lay-out, writes them as a run that verify.py and evaluate.py
read, without JAX.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[3])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported; each evolution has a core

import argparse
import time

from controller.tools.doom_jax.layout import lay_out
from controller.tools.doom_jax.plan import QUICK, SMOKE, Plan, say
from controller.tools.doom_jax.recording import Frames, start_workers
from env.run.command import run_command
from env.tasks import get_task


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--smoke", action="store_true", help="everything in small")
    parser.add_argument("--quick", action="store_true", help="the real sizes of all arrays, but each part for some seconds only")
    parser.add_argument("--lay-out", type=Path, metavar="RUN", help="write what is in OUT as a run, and end")
    args = parser.parse_args()
    if args.lay_out:
        lay_out(args.out, args.lay_out)
        return
    began, plan = time.monotonic(), SMOKE if args.smoke else QUICK if args.quick else Plan()
    settings = get_task("doom").scales["paper"]
    z, units = settings.vae.z_size, settings.rnn.units
    frames = Frames(plan.most_frames)
    pipes = start_workers(frames, plan, settings, z + 2 * units, began)
    from controller.tools.doom_jax.learning import learn  # only now: what has imported JAX must not fork

    learn(args.out, plan, frames, pipes, z, units, began)
    say(began, "done")


if __name__ == "__main__":
    run_command(main)
