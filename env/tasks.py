"""The games, as values: what is said of one game alone is said here, and nowhere else is asked which game it is.

What a setting means is told in env/run/settings.py. `paper` holds the paper's settings and, where the paper is silent, those of
the authors' released code. `day` is meant for some hours on 2 cores. `smoke` reaches every line of every stage in about two minutes.

A game of one's own is a Python file with one Task in it; its file name stands wherever a game's name does (env/README.md, "Your own game").
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from env.actions import Actions, Continuous, Discrete
from env.run.errors import UserError
from env.run.settings import SCALES, SECTIONS, ActorCritic, Controller, Evaluate, Extract, Rnn, Rssm, Settings, Vae, World, unused

__all__ = [
    "ActorCritic",
    "Continuous",
    "Controller",
    "Discrete",
    "Evaluate",
    "Extract",
    "GymnasiumWorld",
    "Rnn",
    "Rssm",
    "Settings",
    "Task",
    "Vae",
    "World",
    "get_task",
    "system",
    "three_scales",
]

if TYPE_CHECKING:
    import gymnasium

MakeWorld = Callable[[World, "str | None"], "gymnasium.Env"]


@dataclass(frozen=True)
class Task:
    """A game.

    Attributes:
        name: what the user types, and the name of its runs.
        world: makes the game: (settings of the world, gymnasium's render_mode or None) -> a gymnasium world whose observations are
            uint8 [64, 64, 3] and whose actions are float [A].
        actions: how C's outputs become an action.
        scales: scale name -> Settings.
        title: what reports print; the name, where it is empty.
        step_reward: what the world pays for each frame, if it pays for nothing else; 0 where M's dream has no reward of its own.
        health: whether the world's `info` tells the agent's "health" at each step, and at the start: from 1 to 0.
        privileged: of how many yes-or-no questions the world's `info` tells the answers, as "privileged", uint8 [privileged] of 0 and 1, at
            each step and at the start: what M may learn to tell from frames (rssm.beta_privileged), and what no player sees.
        privileged_marks: how many of them in a row ask of one number whether it is above so many marks, an equal step apart.
        keys: keyboard key -> the action that it stands for when a person plays.
        frame_rate: frames a second when a person plays.
        mirror: by what each number of an action is multiplied where the game is seen left for right, such as -1 for steering; empty, if
            that is not the same game any more, or not known to be.
        opening: frames of a game's opening, such as a zoom: on a web page, dreams of an M that knows of no end begin after them.
        recorded_steps, played_steps: how many frames long an episode of the random policy and one of a trained agent is on average, from
            which a run's duration is estimated; 0 for the step limit.
        frame_bytes: about how much a recorded frame takes on disk, from which a run's size is estimated.
        file: where a game of one's own is defined; None for the paper's.
    """

    name: str
    world: MakeWorld
    actions: Actions
    scales: dict[str, Settings]
    title: str = ""
    step_reward: float = 0.0
    health: bool = False
    privileged: int = 0
    privileged_marks: int = 1
    keys: tuple[tuple[str, tuple[float, ...]], ...] = ()
    frame_rate: int = 30
    opening: int = 0
    recorded_steps: int = 0
    played_steps: int = 0
    frame_bytes: int = 4000
    file: Path | None = None
    mirror: tuple[float, ...] = ()

    @property
    def shown(self) -> str:
        """The title, or the name."""
        return self.title or self.name

    @property
    def word(self) -> str:
        """What names it on a command line."""
        return str(self.file) if self.file else self.name


def registered(module: str, env_id: str, world: World, render_mode: str | None) -> gymnasium.Env:
    """The world `env_id`, which importing `module` registers, drawn and processed as the settings say."""
    import gymnasium  # here, so that --help does without it

    importlib.import_module(module)
    options = {"render": world.render, "frames": world.frames, "render_mode": render_mode}
    return gymnasium.make(env_id, max_episode_steps=world.max_steps, disable_env_checker=True, **options)


class GymnasiumWorld:
    """Any gymnasium world with an RGB picture, seen as 64x64 frames (env/worlds/adapter.py).

    Args:
        env: gymnasium's id, or what makes the world: a class or function that takes `render_mode` and the options.
        crop: rows from, rows to, columns from, columns to: the part of the picture that is seen; None for all.
        options: for gymnasium.make, or for `env`.
    """

    def __init__(self, env: str | Callable[..., gymnasium.Env], crop: tuple[int, int, int, int] | None = None, **options: Any) -> None:
        self._env, self._crop, self._options = env, crop, options

    def __call__(self, world: World, render_mode: str | None) -> gymnasium.Env:
        from env.worlds.adapter import PictureWorld

        return PictureWorld(self._env, self._options, self._crop, world)


def smoke(paper: Settings, max_steps: int, episodes: int = 1) -> Settings:
    """Every stage in small: episodes of `max_steps` steps, `episodes` for each candidate."""
    return replace(
        paper,
        scale="smoke",
        world=replace(paper.world, max_steps=max_steps),
        extract=replace(paper.extract, episodes=8),
        vae=replace(paper.vae, batch=20, epochs=1),
        rnn=replace(paper.rnn, batch=4, window=min(50, paper.rnn.window or 50), steps=20),
        controller=replace(
            paper.controller,
            dream_steps=max_steps,
            population=4,
            episodes=episodes,
            sharing=2,
            generations=2,
            eval_every=1,
            eval_episodes=2 * episodes,
            lanes=4,
            slots=2,
        ),
        rssm=replace(paper.rssm, units=32, hidden=32, groups=4, classes=4, batch=4, window=20, steps=20),
        actor_critic=replace(
            paper.actor_critic,
            updates=20,
            batch=4,
            window=20,
            horizon=5,
            starts=4,
            hidden=32,
            eval_every=10,
            seed_episodes=2,
            round_episodes=2,
            train_ratio=2.0,
        ),
        rounds=replace(paper.rounds, episodes=4, vae_steps=5, memory_steps=10, generations=2, updates=10, held_out=4),
        evaluate=replace(paper.evaluate, episodes=4, dream_episodes=min(4, paper.evaluate.dream_episodes)),
    )


def system(settings: Settings, memory: str, trainer: str) -> Settings:
    """A game's settings with another memory or another trainer than the paper's: where these need it, C's, too, are others.

    An RSSM learns ends, which recordings that go on beyond them would teach it wrongly, and shows C its two states. An actor has a hidden
    layer: the policy gradient moves a linear C but slowly. A game that has that memory or trainer of itself has said so for itself.
    """
    new_memory, new_trainer = memory != settings.memory, trainer != settings.trainer
    settings = replace(settings, memory=memory, trainer=trainer)
    if new_trainer:
        settings = replace(settings, controller=replace(settings.controller, start=""))  # of another shape
    if memory == "rssm":
        settings = replace(settings, extract=replace(settings.extract, past_done=False))
    if new_memory and memory == "rssm":
        c = replace(settings.controller, features="zh", bias=True, temperature=1.0, dream_steps=settings.world.max_steps)
        settings = replace(settings, controller=c)
    if new_trainer and trainer == "actor_critic":
        settings = replace(settings, controller=replace(settings.controller, hidden=256 if settings.scale != "smoke" else 16, bias=True))
    elif new_trainer:
        settings = replace(settings, controller=replace(settings.controller, hidden=0))  # not an actor's, of a game that has one of itself
    return replace(settings, **{name: SECTIONS[name]() for name in unused(memory, trainer)})


def as_shipped(settings: Settings, task: Task) -> Settings:
    """The settings with the memory and trainer, V and M of the agent that comes with the project, and as often asked: the paper's."""
    paper = task.scales["paper"]
    world = replace(settings.world, repeat=paper.world.repeat)
    return replace(settings, memory=paper.memory, trainer=paper.trainer, world=world, vae=paper.vae, rnn=paper.rnn)


def three_scales(name: str, smoke_steps: int = 100, **sections: Any) -> dict[str, Settings]:
    """Settings for a game of one's own: the paper's, but that episodes end when the game says so, M learns from windows of them,
    and there is one kind of drawing.

    Args:
        name: the task's.
        smoke_steps: the longest episode at scale `smoke`.
        sections: world=World(...), rnn=Rnn(...) and so on, in the place of those.
    """
    own: dict[str, Any] = {
        "world": World(render="official"),
        "extract": Extract(policy="hold", past_done=False),
        "rnn": Rnn(window=50),
    }
    paper = Settings(task=name, **(own | sections))
    day = replace(
        paper,
        scale="day",
        extract=replace(paper.extract, episodes=min(1000, paper.extract.episodes)),
        vae=replace(paper.vae, epochs=1),
        rnn=replace(paper.rnn, steps=min(3000, paper.rnn.steps)),
        controller=replace(
            paper.controller,
            episodes=min(4, paper.controller.episodes),
            sharing=0,
            generations=min(250, paper.controller.generations),
            eval_episodes=min(128, paper.controller.eval_episodes),
            slots=32,
        ),
    )
    return {"smoke": smoke(paper, min(smoke_steps, paper.world.max_steps)), "day": day, "paper": paper}


_CARRACING_PAPER = Settings()
# What the shipped agent was trained with (controller/README.md), but for its dtypes.
_CARRACING_DAY = replace(
    _CARRACING_PAPER,
    scale="day",
    extract=Extract(episodes=800, past_done=False),
    vae=Vae(epochs=1, limit_steps=5000),
    rnn=Rnn(batch=40, window=250, steps=800),
    # All candidates of a generation drive the same tracks: with few episodes the comparison is fairer so.
    controller=Controller(episodes=2, sharing=0, generations=90, eval_every=10, eval_episodes=64, slots=64),
)

CARRACING = Task(
    name="carracing",
    title="CarRacing",
    world=partial(registered, "env.worlds.carracing", "WorldModels/CarRacing-v0"),
    # steer = y0, gas = (y1 + 1) / 2, brake = clip(y2, 0, 1): original carracing/model.py
    actions=Continuous(scale=(1.0, 0.5, 1.0), offset=(0.0, 0.5, 0.0), low=(-1.0, 0.0, 0.0), high=(1.0, 1.0, 1.0)),
    keys=(("left", (-1.0, 0.0, 0.0)), ("right", (1.0, 0.0, 0.0)), ("up", (0.0, 1.0, 0.0)), ("down", (0.0, 0.0, 0.8))),
    frame_rate=50,
    opening=60,
    privileged=135,  # env/worlds/carracing.py, situation
    privileged_marks=15,
    frame_bytes=900,
    scales={"smoke": smoke(_CARRACING_PAPER, 100), "day": _CARRACING_DAY, "paper": _CARRACING_PAPER},
)

_DOOM_PAPER = Settings(
    task="doom",
    world=World(max_steps=2100),
    extract=Extract(policy="hold", past_done=False, min_frames=101),
    vae=Vae(z_size=64),
    rnn=Rnn(units=512, sequences="stream", window=500, restart=True, decay=0.99999, steps=24400),
    controller=Controller(world="dream", temperature=1.15, dream_steps=2100, features="zch", bias=False),
    evaluate=Evaluate(dream_episodes=100),
)
_DOOM_DAY = replace(
    _DOOM_PAPER,
    scale="day",
    # With fewer episodes than the paper's, holds of up to 10 steps show too little of the side walls (env/random_policy.py).
    extract=replace(_DOOM_PAPER.extract, episodes=5000, policy="varied"),
    vae=replace(_DOOM_PAPER.vae, epochs=1),
    # The shape of batches and evolution of an earlier shipped agent, four times as long.
    rnn=replace(_DOOM_PAPER.rnn, batch=50, window=250, steps=20000, decay=0.9998),
    controller=replace(_DOOM_PAPER.controller, episodes=8, sharing=0, lanes=256, generations=240, eval_every=10, eval_episodes=256),
)

DOOM = Task(
    name="doom",
    title="DoomTakeCover",
    world=partial(registered, "env.worlds.doom", "WorldModels/TakeCover-v0"),
    # The world itself takes tanh's answer, and so does M: original doomrnn/doomreal.py
    actions=Continuous(scale=(1.0,), offset=(0.0,), low=(-1.0,), high=(1.0,)),
    step_reward=1.0,
    health=True,
    privileged=288,  # env/worlds/doom.py, threats
    keys=(("left", (-1.0,)), ("right", (1.0,))),
    mirror=(-1.0,),
    frame_rate=35,
    recorded_steps=310,
    played_steps=800,
    scales={"smoke": smoke(_DOOM_PAPER, 150, episodes=2), "day": _DOOM_DAY, "paper": _DOOM_PAPER},
)

TASKS: dict[str, Task] = {task.name: task for task in (CARRACING, DOOM)}


def get_task(word: str) -> Task:
    """The task called `word`, or, where that ends in .py, the one that the file defines.

    Raises:
        UserError: there is none; the message names the tasks that exist, or what is wrong with the file.
    """
    if word.endswith(".py"):
        return load_task(Path(word))
    if word not in TASKS:
        raise UserError(f"unknown task '{word}': choose one of {', '.join(TASKS)}, or the .py file of your own game")
    return TASKS[word]


def load_task(path: Path) -> Task:
    """The Task that a Python file defines. The file is run, as by `python FILE`.

    Raises:
        UserError: it is missing, fails, or has no Task, several ones, or one that does not fit.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: give a Python file with a Task in it (env/README.md, 'Your own game')")
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"own_game_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up there
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        line = next((f" (line {tb.tb_lineno})" for tb in _frames(error) if tb.tb_frame.f_code.co_filename == str(path)), "")
        raise UserError(f"{path} failed with {type(error).__name__}: {error}{line}") from None
    found = {id(value): value for value in vars(module).values() if isinstance(value, Task)}
    own = [task for task in found.values() if task not in TASKS.values()]
    if len(own) != 1:
        raise UserError(f"{path} defines {len(own)} Tasks: it must define one (env/README.md, 'Your own game')")
    return _checked(replace(own[0], file=path))


def _frames(error: BaseException) -> list[Any]:
    """The traceback's entries, innermost first."""
    entries, tb = [], error.__traceback__
    while tb is not None:
        entries.append(tb)
        tb = tb.tb_next
    return entries[::-1]


def _checked(task: Task) -> Task:
    """The task of a user's file. Raises UserError when its name or settings do not fit."""
    if task.name in TASKS or not task.name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"{task.file}: the task's name '{task.name}' must be letters, digits, - and _, and none of {', '.join(TASKS)}")
    for key, action in task.keys:
        if len(action) != task.actions.size:
            raise UserError(f"{task.file}: key {key} stands for {len(action)} numbers, an action is {task.actions.size}")
    if task.privileged % task.privileged_marks:
        raise UserError(f"{task.file}: privileged is {task.privileged}, which is no multiple of privileged_marks, {task.privileged_marks}")
    if task.mirror and (isinstance(task.actions, Discrete) or len(task.mirror) != task.actions.size):
        raise UserError(f"{task.file}: mirror has {len(task.mirror)} numbers, it needs one for each of {task.actions.size} continuous ones")
    if set(task.scales) != set(SCALES):
        raise UserError(f"{task.file}: it has the scales {', '.join(task.scales)}: it needs {', '.join(SCALES)}; use three_scales")
    for scale, settings in task.scales.items():
        if (settings.task, settings.scale) != (task.name, scale):
            raise UserError(f"{task.file}: the settings of scale {scale} are those of {settings.task}, {settings.scale}: use three_scales")
        try:
            settings.check()
        except UserError as error:
            raise UserError(f"{task.file}, scale {scale}: {error}") from None
    return task
