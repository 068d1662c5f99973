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
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from controller.weights import controller_path, shipped
from env.command import parser, resolve, run_command
from env.compute import limit_threads
from env.settings import UserError
from env.tasks import Settings, Task

if TYPE_CHECKING:
    import pygame

    from controller.agent import Agent

WINDOW = 640  # pixels of the window's longer side
PLAY = 5  # keeps these episodes' seeds apart from all others'


class Game(Protocol):
    """What is played: the real world or a dream, with or without an agent."""

    def begin(self, seed: int) -> None:
        """Start an episode."""

    def picture(self) -> np.ndarray:
        """What there is to see, uint8 [H, W, 3]."""

    def answer(self) -> np.ndarray | None:
        """The agent's action for what it sees now, float32 [A]; None without an agent."""

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Take an action, the agent's or another: the reward, and whether the episode is over."""


class RealGame:
    """The real world, seen as it draws itself; the agent sees its 64x64 frames."""

    def __init__(self, task: Task, settings: Settings, agent: Agent | None) -> None:
        from controller.rollout import make_world

        self._world, self._agent = make_world(task, settings.world, render_mode="rgb_array"), agent

    def begin(self, seed: int) -> None:
        from controller.rollout import Job

        if self._agent:
            self._agent.begin(0, Job(0, 0, seed))
        self._frame, _ = self._world.reset(seed=seed)

    def picture(self) -> np.ndarray:
        return np.asarray(self._world.render())

    def answer(self) -> np.ndarray | None:
        return self._agent.act(self._frame[None])[0] if self._agent else None

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        if self._agent:
            self._agent.acted(action[None])
        self._frame, reward, terminated, truncated, _ = self._world.step(action)
        return float(reward), terminated or truncated


class DreamGame:
    """M's dream, decoded by V; the agent sees M's state."""

    def __init__(self, task: Task, settings: Settings, run: Path | None, params: np.ndarray | None) -> None:
        import tensorflow as tf

        from controller.simulate import make_act, make_dream

        self._dream, self._act = make_dream(task, settings, run), tf.function(make_act(task, settings))
        self._params = None if params is None else tf.constant(params[None])

    def begin(self, seed: int) -> None:
        self._seen, _ = self._dream.reset(seed=seed)

    def picture(self) -> np.ndarray:
        return self._dream.render()

    def answer(self) -> np.ndarray | None:
        return None if self._params is None else self._act(self._params, self._seen[None]).numpy()[0]

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self._seen, reward, terminated, truncated, _ = self._dream.step(action)
        return reward, terminated or truncated


def make_game(task: Task, settings: Settings, run: Path, run_given: bool, dream: bool, temperature: float | None) -> Game:
    """The game that the flags name.

    Raises:
        UserError: a dream without a trained V and M, or weights that do not fit.
    """
    from controller.agent import load_agent

    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, slots=1))
    agent, models = None, run if (run / "rnn" / "weights.npz").exists() else None
    if dream and run_given and models is None:
        raise UserError(f"{run} has no M to dream: run rnn/train.py {task.name} --run {run} first")
    try:
        weights = controller_path(task, run, run_given, None)
    except UserError as error:
        if run_given and not run.is_dir():
            raise
        print(f"{error}. There is no agent: you play")
    else:
        agent, settings = load_agent(task, settings, run, weights)
        models = None if weights == shipped("controller", task) else run
    if temperature is not None:
        settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, temperature=temperature))
        settings.check()
    if dream:
        print(f"M's dream at temperature {settings.controller.temperature:g}")
        return DreamGame(task, settings, models, agent.candidates[0] if agent else None)
    return RealGame(task, settings, agent)


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


def pressed_action(task: Task, held: Any) -> np.ndarray | None:
    """The action of the arrow keys that are held down, float32 [A]; None when there are none."""
    import pygame

    actions = [action for key, action in task.keys if held[pygame.key.key_code(key)]]
    return np.clip(np.sum(actions, axis=0), task.action_low, task.action_high).astype(np.float32) if actions else None


def play(game: Game, task: Task, window: pygame.Surface, title: str, seed: int, episodes: int) -> None:
    """Play until the window is closed, or `episodes` have ended (0: no limit)."""
    import pygame

    from controller.rollout import episode_seed

    clock, episode, by_hand = pygame.time.Clock(), 0, False
    rest = np.clip(np.zeros(task.action_size), task.action_low, task.action_high).astype(np.float32)
    while not episodes or episode < episodes:
        game.begin(episode_seed(seed, PLAY, episode))
        episode, score, steps, over = episode + 1, 0.0, 0, False
        while not over:
            for event in pygame.event.get():
                if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                    return
                over |= event.type == pygame.KEYDOWN and event.key == pygame.K_r
                by_hand &= not (event.type == pygame.KEYDOWN and event.key == pygame.K_a)
            own, answer = pressed_action(task, pygame.key.get_pressed()), game.answer()
            by_hand = by_hand or own is not None or answer is None
            reward, ended = game.step((rest if own is None else own) if by_hand or answer is None else answer)
            score, steps, over = score + reward, steps + 1, over or ended
            show(window, game.picture(), f"{title}: {'you play' if by_hand else 'the agent plays'}, step {steps}, score {score:.0f}")
            clock.tick(task.frame_rate)
        print(f"episode {episode}: {steps} steps, score {score:.1f}", flush=True)


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
    title = f"{task.title}, M's dream" if parsed.dream else task.title
    window = open_window(title)
    limit_threads()
    game = make_game(task, settings, run, parsed.run is not None, parsed.dream, parsed.temperature)
    play(game, task, window, title, settings.seed, parsed.episodes)


if __name__ == "__main__":
    run_command(main)
