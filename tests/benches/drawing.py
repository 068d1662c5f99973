"""How near our fast drawing of CarRacing is to gymnasium's (see tests/bench.py), and how equal all else is."""

from __future__ import annotations

import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing as Official

from env.worlds.carracing import CarRacing
from tests.benches.data import Data


def drive(seed: int, steps: int) -> tuple[np.ndarray, float]:
    """Drive both worlds with the same actions along the track.

    Returns:
        mean absolute difference of rows 0..83 for each frame, and the largest difference of rewards, ends and positions.
    """
    ours, official = CarRacing(), Official(lap_complete_percent=1.0)
    ours.reset(seed=seed)
    official.reset(seed=seed)
    noise, differences, worst = np.random.default_rng(seed), [], 0.0
    for _ in range(steps):
        hull = official.car.hull
        track = np.array([tile[2:4] for tile in official.track])
        here = int(np.argmin(((track - hull.position) ** 2).sum(axis=1)))
        ahead = track[(here + 6) % len(track)] - hull.position
        turn = (np.arctan2(-ahead[0], ahead[1]) - hull.angle + np.pi) % (2 * np.pi) - np.pi
        slow = np.hypot(*hull.linearVelocity) < 50
        action = np.array([np.clip(-2 * turn, -1, 1) + 0.1 * noise.standard_normal(), 0.5 * slow, 0.0], np.float32)
        _, reward, done, *_ = ours.step(action)
        picture, official_reward, official_done, *_ = official.step(action)
        assert ours._painter is not None
        differences.append(np.abs(ours._painter.frame(ours).astype(int) - picture[:84]).mean())
        pairs = [(reward, official_reward), (done, official_done), (ours.t, official.t)]
        for body, other in zip([ours.car.hull, *ours.car.wheels], [official.car.hull, *official.car.wheels]):
            pairs += [(body.angle, other.angle), *zip(body.position, other.position), *zip(body.linearVelocity, other.linearVelocity)]
        worst = max(worst, *(abs(float(a) - float(b)) for a, b in pairs))
    return np.array(differences), worst


def bench_drawing(data: Data) -> dict[str, float]:
    """Of 255, over 10 tracks x 200 frames: the mean absolute difference of all, of the worst frame, and the mean of each track."""
    differences = [drive(seed, 200)[0] for seed in range(10)]
    figures = {"drawing_difference": float(np.mean(differences)), "drawing_worst_frame": float(np.max(differences))}
    return figures | {f"drawing_difference_track_{seed}": float(track.mean()) for seed, track in enumerate(differences)}
