"""How throughput and memory change with the size of things (see tests/bench.py, growth)."""

from __future__ import annotations

from pathlib import Path

from env.tasks import get_task
from tests.benches.commands import train_vae
from tests.benches.data import Data
from tests.benches.play import Figures, dream_rate, play_loop, population

SLOTS = (1, 2, 4, 8, 16, 32, 64)
LANES = (1, 16, 64, 128, 256, 512, 1024)
POPULATIONS = (4, 16, 64, 256)
STEPS = 300  # of an episode at most, in the world and in the dream
EPISODES = (100, 1000)
Z_SIZES = (16, 32, 64, 128)


def bench_growth(data: Data) -> Figures:
    """One figure for each size: the loop against slots and the size of z, the dream against lanes and population, V's training
    against the size of z, and its memory against episodes on disk; all in float32, with episodes of 300 steps."""
    from env.rollout import Job

    figures = {}
    for slots in SLOTS:
        figures[f"loop_{slots}_slots_steps_per_s_core"] = play_loop("float32", slots, STEPS, 3)
    candidates = population(data, get_task("doom"), max(POPULATIONS))
    for lanes in LANES:
        jobs = [Job(i, i % 64, i) for i in range(lanes)]
        figures[f"dream_{lanes}_lanes_steps_per_s_core"] = dream_rate(data, "float32", lanes, jobs, candidates, STEPS)
    for size in POPULATIONS:
        jobs = [Job(i, i % size, i) for i in range(max(POPULATIONS))]
        figures[f"dream_population_{size}_steps_per_s_core"] = dream_rate(data, "float32", 128, jobs, candidates[:size], STEPS)
    for z_size in Z_SIZES:
        figures[f"loop_z_{z_size}_steps_per_s_core"] = play_loop("float32", 16, STEPS, 3, z_size)
        figures[f"vae_train_z_{z_size}_frames_per_s"] = train_vae(data.many(100), "--z-size", z_size, steps=150)[0]
    for episodes in EPISODES:
        figures[f"vae_train_{episodes}_episodes_rss_mb"] = train_vae(data.many(episodes), steps=200)[1]
    return figures


def plot_growth(figures: Figures, target: Path) -> None:
    """The curves of `bench_growth`, as one picture."""
    import matplotlib.pyplot as plt

    panels = [
        ("loop, against slots", "steps/s/core", SLOTS, [("V + M + C + world", "loop_{}_slots_steps_per_s_core")]),
        ("dream, against lanes", "steps/s/core", LANES, [("living dreams", "dream_{}_lanes_steps_per_s_core")]),
        ("dream, against population", "steps/s/core", POPULATIONS, [("256 dreams in all", "dream_population_{}_steps_per_s_core")]),
        ("size of z", "a second", Z_SIZES, [("loop", "loop_z_{}_steps_per_s_core"), ("V's training", "vae_train_z_{}_frames_per_s")]),
        ("V's training, against episodes on disk", "MB", EPISODES, [("peak memory", "vae_train_{}_episodes_rss_mb")]),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.4))
    for axis, (title, unit, sizes, curves) in zip(axes, panels):
        for label, key in curves:
            axis.plot(sizes, [figures[key.format(size)] for size in sizes], "o-", label=label)
        axis.set(title=title, ylabel=unit, xscale="log")
        axis.set_ylim(0, 1.2 * axis.get_ylim()[1])
        axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    plt.close(figure)
