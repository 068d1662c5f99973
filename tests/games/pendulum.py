"""A swing-up from its picture: gymnasium's Pendulum, which hangs down at the start. Random play never holds it up.

    bash run.sh tests/games/pendulum.py --rounds 4
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control import PendulumEnv

from env.run.settings import Controller, Extract, Rounds, Rssm, Vae, World
from env.tasks import Continuous, GymnasiumWorld, Task, three_scales


class HangingPendulum(PendulumEnv):
    """Pendulum-v1, but that each episode starts within 0.1 rad (and rad/s) of hanging still. Gymnasium's starts anywhere, half of
    the time above the middle, so that even random play would see how to balance."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = np.array([np.pi, 0.0]) + self.np_random.uniform(-0.1, 0.1, 2)
        return self._get_obs(), {}

    def render(self) -> np.ndarray:
        """Gymnasium's picture, its colours turned round, on grey: uint8 [500, 500, 3]. V's sigmoid saturates where a picture is white, or
        black, all over, and then learns nothing of the little that is not."""
        return 128 + (255 - super().render()) // 2


TASK = Task(
    name="pendulum",
    title="Pendulum, hanging",
    world=GymnasiumWorld(HangingPendulum),
    actions=Continuous(scale=(2.0,), offset=(0.0,), low=(-2.0,), high=(2.0,)),
    keys=(("left", (2.0,)), ("right", (-2.0,))),
    scales=three_scales(
        "pendulum",
        smoke_steps=50,
        memory="rssm",  # it dreams of the reward, which differs from step to step
        world=World(render="official", max_steps=200),
        extract=Extract(episodes=100, policy="uniform", past_done=False),
        vae=Vae(epochs=8, learning_rate=5e-4, dtype="mixed_bfloat16"),
        rssm=Rssm(units=128, hidden=128, groups=16, classes=8, window=50, steps=2000),
        controller=Controller(
            world="dream", temperature=1.0, dream_steps=200, episodes=4, sharing=0, generations=40, eval_every=10, eval_episodes=64
        ),
        rounds=Rounds(episodes=40, vae="on", vae_steps=500, memory_steps=1000, generations=30),
    ),
)
