"""A third game: gymnasium's LunarLander, played from its picture.

    bash run.sh tests/games/lunar_lander.py --scale smoke
"""

from env.run.settings import Extract, Rnn, Vae, World
from env.tasks import Discrete, GymnasiumWorld, Task, three_scales

NOTHING, LEFT, MAIN, RIGHT = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))

TASK = Task(
    name="lunar_lander",
    title="LunarLander",
    world=GymnasiumWorld("LunarLander-v3", crop=(0, 400, 100, 500)),
    actions=Discrete(4),
    keys=(("left", LEFT), ("up", MAIN), ("right", RIGHT)),
    frame_rate=50,
    scales=three_scales(
        "lunar_lander",
        world=World(render="official", max_steps=600),
        extract=Extract(episodes=2000, policy="hold", past_done=False),
        vae=Vae(z_size=32, epochs=2),
        rnn=Rnn(window=50, steps=4000),
    ),
)
