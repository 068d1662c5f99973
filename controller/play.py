"""Watch the agent, and take over with the keyboard: in the real world or in M's dream of it.

    python controller/play.py carracing
    python controller/play.py doom --dream --temperature 1.15
    python controller/play.py doom --dream --run runs/doom

The agent plays first. An arrow key takes over, A gives back to the agent, R starts another episode, Esc leaves. The agent and
the dream are RUN's, or, where there is none yet, those shipped with the project; where there is no trained C, you play.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

from env.rollout import Job, Moment, Player, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.command import parser, resolve, run_command
from env.run.compute import limit_threads
from env.run.errors import UserError
from env.run.settings import Settings
from env.run.weights import controller_path, is_shipped, memory_path
from env.tasks import Task

if TYPE_CHECKING:
    import pygame


WINDOW = 640  # pixels of the window's longer side


class Left(Exception):
    """The window was closed."""


class Keyboard:
    """An agent, or nobody, until a person takes over (a Player with one slot, see env/rollout.py).

    Args:
        task: the game, with its keys and actions.
        player: the agent, or None.
        held: which keys are held down now, by name.
    """

    slots = 1

    def __init__(self, task: Task, player: Player | None, held: Callable[[str], bool]) -> None:
        self._task, self._player, self._held = task, player, held
        self.by_hand = player is None

    def begin(self, slot: int, job: Job) -> None:
        self.by_hand = self._player is None
        if self._player:
            self._player.begin(slot, job)

    def act(self, observations: np.ndarray) -> np.ndarray:
        answer = self._player.act(observations) if self._player else None
        pressed = [action for key, action in self._task.keys if self._held(key)]
        self.by_hand = self.by_hand or bool(pressed) or answer is None
        if not self.by_hand:
            assert answer is not None
            return answer
        actions = self._task.actions
        own = (actions.of_keys(pressed) if pressed else actions.rest)[None]
        if isinstance(self._player, Remembers):
            self._player.acted(own)
        return own

    def give_back(self) -> None:
        """The agent plays again, if there is one."""
        self.by_hand = self._player is None


@runtime_checkable
class Remembers(Protocol):
    """A player that must know what was done in its place."""

    def acted(self, actions: np.ndarray) -> None: ...


class Game(NamedTuple):
    """What is played: the real world or a dream, with or without an agent, and how many steps of it are a second."""

    worlds: Worlds
    player: Player | None
    frame_rate: float


def make_game(task: Task, settings: Settings, run: Path, run_given: bool, dream: bool, temperature: float | None) -> Game:
    """The game that the flags name.

    Raises:
        UserError: a dream without a trained V and M, or weights that do not fit.
    """
    from controller.agent import load_agent
    from controller.simulate import Dreamer, make_dream

    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, slots=1))
    agent, models = None, run if memory_path(run).exists() else None
    if dream and run_given and models is None:
        raise UserError(f"{run} has no M to dream: run rnn/train.py {task.word} --run {run} first")
    try:
        weights = controller_path(task.name, run, run_given)
    except UserError as error:
        if run_given and not run.is_dir():
            raise
        print(f"{error}. There is no agent: you play")
    else:
        agent, settings = load_agent(task, settings, run, weights)
        models = None if is_shipped(weights, task.name) else run
    if temperature is not None:
        settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, temperature=temperature))
        settings.check()
    frame_rate = task.frame_rate / settings.world.repeat
    if not dream:
        return Game(Worlds.of(task, settings.world, render_mode="rgb_array"), agent, frame_rate)
    print(f"M's dream at temperature {settings.controller.temperature:g}")
    world, policy = make_dream(task, settings, models)
    return Game(Worlds(lambda: world), Dreamer(policy, task.actions, agent.candidates[0]) if agent else None, frame_rate)


def open_window(title: str) -> pygame.Surface:
    """The window.

    Raises:
        UserError: there is no display.
    """
    hint = "run this on a machine with a screen, or look at agent.gif and dream.gif in a run's report"
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))):
        raise UserError(f"there is no display to play on: {hint}")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    try:
        pygame.display.init()
        pygame.font.init()
        window = pygame.display.set_mode((WINDOW, WINDOW))
    except pygame.error as error:
        raise UserError(f"there is no display to play on ({error}): {hint}") from None
    pygame.display.set_caption(title)
    return window


def show(window: pygame.Surface, picture: np.ndarray, words: str) -> None:
    """Draw the picture as large as the window allows, with a line of words above it."""
    import pygame

    height, width = picture.shape[:2]
    scale = WINDOW / max(height, width)
    image = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
    window.fill((0, 0, 0))
    window.blit(pygame.transform.scale(image, (int(width * scale), int(height * scale))), (0, 0))
    window.blit(pygame.font.Font(None, 24).render(words, True, (255, 255, 255), (0, 0, 0)), (4, 4))
    pygame.display.flip()


def play(game: Game, task: Task, window: pygame.Surface, title: str, seed: int, episodes: int) -> None:
    """Play until the window is closed, or `episodes` have ended (0: no limit)."""
    import pygame

    clock, player = pygame.time.Clock(), Keyboard(task, game.player, lambda key: pygame.key.get_pressed()[pygame.key.key_code(key)])

    def watch(moment: Moment) -> bool:
        again = False
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                raise Left
            again |= event.type == pygame.KEYDOWN and event.key == pygame.K_r
            if event.type == pygame.KEYDOWN and event.key == pygame.K_a:
                player.give_back()
        who = "you play" if player.by_hand else "the agent plays"
        show(window, np.asarray(moment.world.render()), f"{title}: {who}, step {moment.step}, score {moment.score:.0f}")
        clock.tick(game.frame_rate)
        return again

    lanes, episode = WorldLanes(game.worlds, player, watch=watch), 0
    try:
        while not episodes or episode < episodes:
            job = Job(0, 0, episode_seed(seed, Purpose.PLAY, episode))
            result = next(rollout(lanes, [job]))
            episode += 1
            print(f"episode {episode}: {result.length} steps, score {result.score:.1f}", flush=True)
    except Left:
        pass


def add_arguments(new: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The flags that only this command has."""
    new.add_argument("--dream", action="store_true", help="play in M's dream instead of the real world")
    new.add_argument("--temperature", type=float, metavar="float", help="the dream's temperature (default: as C was trained)")
    new.add_argument("--episodes", type=int, default=0, metavar="int", help="leave after so many episodes (default: never)")
    return new


def main() -> None:
    parsed = add_arguments(parser(__doc__ or "", "play")).parse_args()
    task, run, settings = resolve(parsed, "play")
    if parsed.temperature is not None and not parsed.dream:
        raise UserError("--temperature is that of a dream: give --dream as well")
    if parsed.episodes < 0:
        raise UserError(f"--episodes is {parsed.episodes}: it must be at least 0, which means no limit")
    title = f"{task.shown}, M's dream" if parsed.dream else task.shown
    window = open_window(title)
    limit_threads()
    game = make_game(task, settings, run, parsed.run is not None or not settings.is_papers, parsed.dream, parsed.temperature)
    play(game, task, window, title, settings.seed, parsed.episodes)


if __name__ == "__main__":
    run_command(main)
