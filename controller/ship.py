"""Copy a run's trained agent to where the project ships it, small, with the logs that show how it was made.

    python controller/ship.py carracing --run runs/carracing-day

Writes vae/TASK.npz, rnn/TASK.npz and controller/TASK.npz, beside each the training's log and pictures, vae/TASK.initial.npz (first
frames, from which dreams start), controller/TASK.settings.json, and, if temperatures were studied, controller/TASK.temperatures.json.
Weights are kept in half precision: score the agent again after shipping it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import shutil

import numpy as np

from controller.temperatures import read_scores
from controller.weights import model_paths, shipped
from env.command import parser, resolve, run_command
from env.files import load_arrays, save_arrays, write_json
from env.settings import UserError


def small(name: str, array: np.ndarray) -> np.ndarray:
    """An array in half precision. V's decoder, four fifths of all weights and needed for pictures only, is rounded to 6 of
    the 10 bits of the mantissa (1% at most), which halves what zlib makes of it."""
    half = np.asarray(array, np.float16)
    if "/dec_" not in name:
        return half
    return ((half.view(np.uint16) + np.uint16(8)) & np.uint16(0xFFF0)).view(np.float16)


def main() -> None:
    parsed = parser(__doc__ or "", "ship").parse_args()
    task, run, settings = resolve(parsed, "ship")
    if not (run / "report" / "report.md").exists():
        raise UserError(f"{run} has no report yet: run 'bash run.sh {task.name} --run {run}' to its end first")
    for floor, name in (("vae", "weights.npz"), ("rnn", "weights.npz"), ("controller", "best.npz")):
        source, target = run / floor / name, shipped(floor, task)
        arrays, meta = load_arrays(source)
        if floor != "controller":  # C is small and its exact numbers were scored
            arrays = {key: small(key, array) for key, array in arrays.items()}
        save_arrays(target, arrays, meta, compress=9)
        shutil.copyfile(run / floor / "log.jsonl", target.with_suffix(".log.jsonl"))
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    initial, _ = load_arrays(run / "encode" / "initial.npz")
    save_arrays(model_paths(task, None).initial, {key: array.astype(np.float16) for key, array in initial.items()}, compress=9)
    pictures = (
        ("vae", "reconstructions", ".png"),
        ("controller", "agent", ".png"),
        ("controller", "controller", ".curve.png"),
        ("controller", "moments", ".moments.png"),
    )
    for floor, picture, suffix in pictures:
        shutil.copyfile(run / "report" / f"{picture}.png", shipped(floor, task).with_suffix(suffix))
    write_json(shipped("controller", task).with_suffix(".settings.json"), settings.to_dict())
    studied = read_scores(run)
    if studied:
        plain = {tau: {key: value for key, value in scores.items() if key != "agent"} for tau, scores in studied.items()}
        write_json(shipped("controller", task).with_suffix(".temperatures.json"), plain)  # without this machine's paths


if __name__ == "__main__":
    run_command(main)
