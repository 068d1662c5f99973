"""The one loop that plays: episodes side by side in lanes that take the next job when theirs has ended.

`rollout` plays wherever an episode is played. What differs is the lanes: `WorldLanes` are gymnasium worlds with a player, be it the
real game or one dream, recorded, watched or neither; `DreamLanes` (rnn/dream.py) are hundreds of dreams in one compiled graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from env.actions import Discrete
from env.episodes import HEALTH, PRIVILEGED, Episode, packed
from env.run.errors import UserError
from env.run.settings import World
from env.tasks import Task

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class Job:
    """One episode to play.

    Attributes:
        index: the caller's number for it.
        candidate: which parameter vector plays it.
        seed: decides everything random in it: the world, V's sampling, a dream, and a random policy's weights.
    """

    index: int
    candidate: int
    seed: int


@dataclass(frozen=True)
class Result:
    """A played episode: its job, the sum of its rewards, its length in steps, and its frames if they were recorded."""

    job: Job
    score: float
    length: int
    episode: Episode | None = None


class Purpose(IntEnum):
    """What an episode is played for; it keeps the seeds of each apart from those of all others."""

    RECORDING = 0
    TRAINING = 1
    SCORING = 2
    EVALUATION = 3
    PICTURES = 4
    PLAY = 5
    TEACHING = 6


# How many numbers follow the purpose: a recording's second one counts further attempts, from 1.
_NUMBERS = {
    Purpose.RECORDING: (1, 2),
    Purpose.TRAINING: (3,),
    Purpose.SCORING: (1,),
    Purpose.EVALUATION: (1,),
    Purpose.PICTURES: (1,),
    Purpose.PLAY: (1,),
    Purpose.TEACHING: (2,),
}


def episode_seed(run_seed: int, purpose: Purpose, *numbers: int) -> int:
    """A seed in [0, 2^31) from the run's seed and what the episode is, well mixed: equal on any number of processes.

    Raises:
        ValueError: other numbers than the purpose takes. SeedSequence holds (1, 0, 5) and (1, 0, 5, 0) for the same, so their count
            must tell nothing apart.
    """
    if len(numbers) not in _NUMBERS[purpose] or (len(numbers) > _NUMBERS[purpose][0] and numbers[-1] == 0):
        raise ValueError(f"{purpose.name} does not take the numbers {numbers}")
    return int(np.random.SeedSequence((run_seed, int(purpose), *numbers)).generate_state(1)[0] & 0x7FFFFFFF)


def episode_rng(seed: int) -> np.random.Generator:
    """The player's generator for an episode: another stream than the one that the world draws from the same seed."""
    return np.random.default_rng((seed, 1))


class Lanes(Protocol):
    """Where `rollout` plays: lanes, each busy with one job or free."""

    def open(self, jobs: int) -> None:
        """So many jobs are to come."""

    def free(self) -> list[int]:
        """The lanes without a job."""

    def begin(self, lane: int, job: Job) -> None:
        """Start the job's episode in a free lane."""

    def busy(self) -> bool:
        """Whether any lane has a job."""

    def advance(self) -> Iterator[Result]:
        """Go on in all busy lanes, by a step or more, and yield the episodes that ended."""


Pulse = Callable[[int, int], None]


def silent(candidate: int, seed: int) -> None:
    """A pulse that nobody feels."""


def rollout(lanes: Lanes, jobs: Sequence[Job], pulse: Pulse = silent) -> Iterator[Result]:
    """Play all jobs and yield each result soon after its episode ended.

    A lane whose episode ended takes the next job at once. What happens in an episode depends on its job alone, not on the lane or
    on its neighbours.

    Args:
        lanes, jobs: where to play, and what.
        pulse: called at each turn with the candidate and seed of the job that has waited longest for its end (env/run/ranks.py).
    """
    queue = iter(jobs)
    waiting: dict[int, Job] = {}
    lanes.open(len(jobs))
    while True:
        for lane, job in zip(lanes.free(), queue):
            lanes.begin(lane, job)
            waiting[job.index] = job
        if not lanes.busy():
            return
        oldest = next(iter(waiting.values()))
        pulse(oldest.candidate, oldest.seed)
        for result in lanes.advance():
            del waiting[result.job.index]
            yield result


class Player(Protocol):
    """Whoever acts in `slots` worlds at once. One that has the attribute `sees_privileged`, and has it true, is shown at each step what
    is privileged, uint8 [slots, K], in the place of frames: a teacher."""

    slots: int

    def begin(self, slot: int, job: Job) -> None:
        """`slot` starts an episode: forget the last one."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """What the worlds show, such as frames uint8 [slots, 64, 64, 3] -> actions float32 [slots, A]. Slots without an episode get
        any answer."""


def make_world(task: Task, world: World, render_mode: str | None = None, past_done: bool = False) -> gymnasium.Env:
    """A world of the task, without gymnasium's per-step checks; its own checks of actions stay.

    Args:
        task, world: which world, and its settings.
        render_mode: gymnasium's, for those who call the world's render().
        past_done: whether it is played on when it says that it is over.

    Raises:
        UserError: the world takes other actions than the task says.
    """
    made = task.world(world, render_mode)
    size, discrete = getattr(made, "action_size", None), getattr(made, "discrete", False)  # of a game of one's own
    if size is not None and (size, discrete) != (task.actions.size, isinstance(task.actions, Discrete)):
        takes = f"Discrete({size})" if discrete else f"Continuous, {size} numbers"
        raise UserError(f"{task.word}: the world takes actions {takes}, the task's are {task.actions}: make them fit")
    if world.repeat == 1:
        return made
    from env.worlds.held import Held

    return Held(made, world.repeat, world.max_steps, past_done)


class Worlds:
    """The worlds that a process plays in, one for each slot: made when first needed, and kept from one rollout to the next.

    Making them anew for each generation would cost time, and memory too: a world is a cycle of references that holds
    megabytes, which Python frees late.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], gymnasium.Env]) -> None:
        self._make = make
        self._made: list[gymnasium.Env] = []

    @staticmethod
    def of(task: Task, world: World, render_mode: str | None = None, past_done: bool = False) -> Worlds:
        """The worlds of a game, see `make_world`."""
        return Worlds(partial(make_world, task, world, render_mode, past_done))

    def __getitem__(self, slot: int) -> gymnasium.Env:
        while len(self._made) <= slot:
            self._made.append(self._make())
        return self._made[slot]

    def close(self) -> None:
        """Close all of them."""
        while self._made:
            self._made.pop().close()


class Moment(NamedTuple):
    """What `watch` sees of an episode, at each of its steps and once more at its end.

    Attributes:
        world: to render.
        observation: what the player sees.
        action: what it is about to do, float32 [A]; None at the end.
        step, score: steps done, and the sum of their rewards.
    """

    world: gymnasium.Env
    observation: np.ndarray
    action: np.ndarray | None
    step: int
    score: float


Watch = Callable[[Moment], bool | None]


class _Slot:
    """A slot's world and the episode it is in."""

    def __init__(self, world: gymnasium.Env, job: Job, record: bool) -> None:
        self.world, self.job, self.record = world, job, record
        self.score, self.length = 0.0, 0
        self.rows: list[tuple] = []
        self.frame, info = world.reset(seed=job.seed)
        self.told = info.get(PRIVILEGED)
        self.beside = [(info.get(HEALTH), self.told)]

    def step(self, action: np.ndarray, past_done: bool) -> bool:
        """Take the action; returns whether the episode is over."""
        asked = action.copy() if self.record else action  # a world may change what it is given
        frame, reward, terminated, truncated, info = self.world.step(action)
        self.told = info.get(PRIVILEGED)
        if self.record:
            self.rows.append((self.frame, asked, reward, terminated))
            self.beside.append((info.get(HEALTH), self.told))
        self.frame = frame
        self.score += float(reward)
        self.length += 1
        return truncated or (terminated and not past_done)

    def shown(self, privileged: bool) -> np.ndarray:
        """What the player sees now."""
        if not privileged:
            return self.frame
        if self.told is None:
            raise UserError("the world does not tell at each step what is privileged, which this player sees: take another player")
        return self.told

    def moment(self, action: np.ndarray | None) -> Moment:
        return Moment(self.world, self.frame, action, self.length, self.score)

    def result(self) -> Result:
        episode = None
        if self.record:
            obs, action, reward, done = zip(*self.rows)
            episode = {
                "obs": np.stack([*obs, self.frame]),
                "action": np.stack(action).astype(np.float32),
                "reward": np.array(reward, np.float32),
                "done": np.array(done, bool),
            }
            health, privileged = map(list, zip(*self.beside))
            if not any(told is None for told in health):
                episode[HEALTH] = np.array(health, np.float32)
            if not any(told is None for told in privileged):
                episode[PRIVILEGED] = packed(privileged)
        return Result(self.job, self.score, self.length, episode)


class WorldLanes:
    """Gymnasium worlds side by side, one in each of a player's slots, a step of all at a time.

    Args:
        worlds: where it is played.
        player: who acts.
        record: whether results carry their frames.
        past_done: go on to the step limit when the world says done (the original's recording of CarRacing).
        watch: shown each moment; where it answers True, the episode is broken off.
        bonus: asked at each step, after the player saw its frames, for what is added to the scores of the slots, float [slots].
    """

    def __init__(
        self,
        worlds: Worlds,
        player: Player,
        *,
        record: bool = False,
        past_done: bool = False,
        watch: Watch | None = None,
        bonus: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self._worlds, self._player = worlds, player
        self._record, self._past_done, self._watch, self._bonus = record, past_done, watch, bonus
        self._slots: dict[int, _Slot] = {}
        self._seen: np.ndarray | None = None
        self._told = bool(getattr(player, "sees_privileged", False))

    def open(self, jobs: int) -> None:
        self._slots.clear()  # of a rollout that was left in the middle

    def free(self) -> list[int]:
        return [slot for slot in range(self._player.slots) if slot not in self._slots]

    def begin(self, lane: int, job: Job) -> None:
        self._player.begin(lane, job)
        world = self._worlds[lane].unwrapped
        if getattr(world, "tells_undrawn", False):  # to draw what nobody sees is half of such a world's time
            world.draws = not self._told or self._record or self._watch is not None  # type: ignore[attr-defined]
        slot = self._slots[lane] = _Slot(self._worlds[lane], job, self._record)
        shown = slot.shown(self._told)
        if self._seen is None:
            self._seen = np.zeros((self._player.slots, *shown.shape), shown.dtype)
        self._seen[lane] = shown

    def busy(self) -> bool:
        return bool(self._slots)

    def advance(self) -> Iterator[Result]:
        assert self._seen is not None
        actions = self._player.act(self._seen)
        bonus = self._bonus() if self._bonus else np.zeros(self._player.slots)
        for number, slot in sorted(self._slots.items()):
            slot.score += float(bonus[number])
            over = bool(self._watch and self._watch(slot.moment(actions[number])))
            try:
                over = over or slot.step(actions[number], self._past_done)
            except Exception as error:
                error.add_note(f"in the episode of candidate {slot.job.candidate}, seed {slot.job.seed}")
                raise
            self._seen[number] = slot.shown(self._told)
            if over:
                if self._watch:
                    self._watch(slot.moment(None))
                del self._slots[number]
                yield slot.result()
