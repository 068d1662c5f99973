"""Benchmarks, each beside the machine's own limit measured in the same run.

    python tests/bench.py world
    python tests/bench.py all --json tests/benches/bench.json
    python tests/bench.py dream --run runs/doom
    python tests/bench.py saving --json tests/benches/saving.json
    python tests/bench.py growth --json tests/benches/growth.json --plot tests/benches/growth.png

world: CarRacing as the agent sees it, with our drawing, with gymnasium's picture, and with gymnasium's own drawing.
drawing: how near our drawing is to gymnasium's. loop: the whole agent, V + M + C + world. held: Doom, actions held for four frames.
dream: Doom's dream, steps of living dreams only. extract, encode: recording, and turning recordings into latents.
vae, rnn: the trainings of V and M. imagine: the RSSM's posterior and imagination, and an actor-critic's training step.
scaling: 2 ranks against one, and how long ranks wait for each other. memory: of V's training and of a rank.
all: all of these. Not part of all: saving, what checkpoints cost; growth, how throughput and memory change with slots, lanes,
population, episodes on disk and the size of z, which takes some minutes.

What plays runs on one core, the trainings on all. Inputs are real: recordings made on the spot, the shipped weights. Figures are
medians after a warm-up; dreams of a whole population run once. Beside each stands, where its work is matrix products, what
share of the machine's float32 rate for them it reaches.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

import tempfile
from collections.abc import Callable

from env.run.command import run_command
from env.run.compute import available_cores, limit_threads
from env.run.errors import UserError
from env.run.files import write_json
from env.run.flags import OneLineParser
from tests.benches import commands, drawing, growth, imagine, play, saving
from tests.benches.data import Data

BENCHES: dict[str, Callable[[Data], dict[str, float]]] = {
    "world": play.bench_world,
    "drawing": drawing.bench_drawing,
    "loop": play.bench_loop,
    "held": play.bench_held,
    "dream": play.bench_dream,
    "extract": play.bench_extract,
    "encode": play.bench_encode,
    "vae": commands.bench_vae,
    "rnn": commands.bench_rnn,
    "imagine": imagine.bench_imagine,
    "scaling": commands.bench_scaling,
    "memory": commands.bench_memory,
    "saving": saving.bench_saving,
    "growth": growth.bench_growth,
}
ALL = [name for name in BENCHES if name not in ("growth", "drawing", "saving")]


def show(figures: dict[str, float]) -> None:
    """Print the table."""
    gemm, flops = figures["gemm_gflops_core"] * 1e9, play.flops() | imagine.flops()
    print(f"{'':<44}{'':>12}   share of the float32 matrix products' rate")
    for key, value in figures.items():
        limit = gemm * (1 if key.endswith("_core") else available_cores())
        share = f"{value * flops[key] / limit:>10.0%}" if key in flops else ""
        print(f"{key:<44}{value:>12,.{1 if value >= 10 else 3}f}{share}")


def main() -> None:
    parser = OneLineParser(description=__doc__)
    parser.add_argument("bench", choices=[*BENCHES, "all"], nargs="?", default="all")
    parser.add_argument("--run", type=Path, metavar="DIR", help="take Doom's V, M and C of this run instead of the shipped ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves of growth into this picture")
    parsed = parser.parse_args()
    if parsed.plot and parsed.bench != "growth":
        raise UserError(f"--plot draws the curves of growth, not of {parsed.bench}: leave it out, or ask for growth")
    limit_threads()
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder), parsed.run)
        figures = play.bench_gemm(data)
        for name, bench in BENCHES.items():
            if parsed.bench == name:
                figures |= bench(data)
            elif parsed.bench == "all" and name in ALL:
                try:
                    figures |= bench(data)
                except UserError as error:
                    print(f"{name}: left out: {error}")
    show(figures)
    if parsed.plot:
        growth.plot_growth(figures, parsed.plot)
    if parsed.json:
        write_json(parsed.json, figures)


if __name__ == "__main__":
    run_command(main)
