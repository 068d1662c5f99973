"""What an actor-critic run learns, and all that leads from one round to the next: M (where the real world is played), actor and critic,
their optimisers, the replay. The command is controller/learn.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from controller.collect import Play
from env.episodes import FRAMES, LATENTS, read_episode
from env.recordings import pooled_rows
from env.run.checkpoints import Checkpoints
from env.run.compute import available_cores
from env.run.errors import UserError
from env.run.files import load_arrays, save_arrays
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.stopping import Asked, Stopped
from env.run.taken import warn_of_other_eyes
from env.run.weights import CRITIC, fingerprints, model_paths, save_weights, start_path, vae_path
from env.tasks import Task
from rnn.memory import KINDS, Batch, batch_signature, load_memory, memory_meta, told
from rnn.sequences import usable_episodes
from vae.encode import first_frames, latents_of, make_encoder, save_initial
from vae.train import episode_paths, vae_meta

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from controller.actor_critic import ActorCritic
    from env.run.training import Row
    from rnn.memory import Memory

OFFLINE_ROUND = 100  # updates between rows of the log, where nothing is played


def make_step(
    memory: Memory, optimizer: keras.Optimizer | None, learner: ActorCritic, settings: Settings
) -> Callable[..., dict[str, tf.Tensor]]:
    """The compiled step of M (with an optimiser; else it stays as it is), actor and critic: a Batch's arrays and an int32 [2] seed -> the
    terms of all losses."""
    import tensorflow as tf

    from rnn.train import clipped

    options, kind, own = settings.actor_critic, KINDS[settings.memory], settings.of_memory
    dreams = options.batch * options.starts

    @tf.function(jit_compile=options.xla or None)
    def step(*parts: tf.Tensor) -> dict[str, tf.Tensor]:
        batch, seed = Batch(*parts[:-1]), parts[-1]
        seeds = tf.random.split(seed, 2)
        noise = tf.random.stateless_normal((options.batch, options.window, memory.sample_noise), seeds[0])
        terms: dict[str, tf.Tensor] = {}
        if optimizer is None:
            states = memory.follow(batch, noise)
        else:
            with tf.GradientTape() as tape:
                terms, states = memory.loss_and_states(batch, noise)
            variables = memory.learning
            optimizer.apply_gradients(zip(clipped(tape.gradient(terms["loss"], variables), kind.clip, own.grad_clip), variables))
        dreaming = tf.random.stateless_normal((options.horizon, dreams, memory.imagine_noise + learner.actor.noise), seeds[1])
        return terms | learner.learn(memory, batch, states, dreaming)

    return step


class Round(NamedTuple):
    """A round that is being learned from.

    Attributes:
        played: what the log says of its episodes, if any were played.
        row: of its updates so far.
        count: updates that it has in all.
        steps: steps played until its end.
    """

    played: dict[str, float]
    row: Row
    count: int
    steps: int


class Learning:
    """What is learned, and all that leads from one round to the next.

    Args:
        run, task: the run.
        asked: whether somebody asked to stop; then, in a round's midst, too, a checkpoint is written, and Stopped raised.

    Attributes:
        rounds, updates, steps: finished rounds, and the updates and the steps played in them.
    """

    def __init__(self, run: Run, task: Task, asked: Asked) -> None:
        import keras
        import tensorflow as tf

        from controller.actor_critic import ActorCritic
        from controller.agent import make_policy
        from env.run.training import Row, restore
        from rnn.train import make_optimizer, make_replay
        from vae.vae import load_vae

        settings = self.settings = run.settings
        self.run, self.task, self.folder, self._asked = run, task, run.path / "controller", asked
        self.online = settings.controller.world == "real"
        keras.utils.set_random_seed(settings.seed)
        self.memory = load_memory(run.path / "rnn" / "weights.npz", task, settings, settings.of_memory.dtype)
        self.learner = ActorCritic(
            make_policy(task, settings, self.memory),
            task.actions,
            settings.actor_critic,
            settings.controller.features,
            settings.controller.temperature,
        )
        self.vae = load_vae(model_start(run), settings.vae.z_size, settings.vae.kl_tolerance, settings.controller.dtype)
        self.learns_to_see = self.online and settings.sees_pixels
        if self.learns_to_see:
            self.memory.see_with(self.vae)  # type: ignore[attr-defined]
        self.optimizer = make_optimizer(settings.of_memory) if self.online else None
        if self.optimizer:
            self.optimizer.build(self.memory.learning)
        self.counters = [tf.Variable(0, dtype=tf.int64) for _ in range(3)]  # rounds, updates, steps played
        self.kept = {"learner": [*self.learner.weights, *self.learner.optimizer_variables()], "counters": self.counters}
        if self.optimizer:
            self.kept |= {"memory": list(self.memory.weights), "optimizer": list(self.optimizer.variables)}
        if self.learns_to_see:
            self.kept["vae"] = list(self.vae.weights)
        self.checkpoints = Checkpoints(self.folder, run.stage("controller").identity())
        latest = self.checkpoints.latest()
        if latest is None:
            warn_of_other_eyes(run)
            begin_with(self.learner, settings)
        restore(latest, self.kept)
        self.rounds, self.updates, self.steps = (int(counter) for counter in self.counters)
        begun = latest.meta.get("round") if latest else None
        self.begun = Round(begun["played"], Row(begun["row"]), begun["count"], begun["steps"]) if begun else None
        self.step = make_step(self.memory, self.optimizer, self.learner, settings)
        options = settings.actor_critic
        capacity = min(options.capacity, frames_to_come(run))
        self.replay = make_replay(capacity, task, settings, self.memory, self.learns_to_see)
        self.play = Play(run, task, self.memory, self.learner, self.vae) if self.online else None
        self.first: np.ndarray | None = None
        self.arrays = FRAMES if self.learns_to_see else LATENTS
        self.recall()
        best = self.folder / "best.npz"
        # Before the first update's checkpoint there is only the score of the C that it began with, or what another training left.
        note = load_arrays(best)[1] if best.exists() and (self.updates or (self.begun and settings.controller.start)) else {}
        # One that was scored only because a shorter run ended does not count; what it took the place of does.
        self.best = note.get("before", -np.inf) if note.get("unplanned") else note.get("score", -np.inf)
        self._seconds = 0.0  # of learning in the present round
        if latest is None:
            self.save()  # from here on, there always is one

    def recall(self) -> None:
        """Fill the replay with what was recorded, and played so far."""
        options, settings = self.settings.actor_critic, self.settings
        if settings.sees_pixels and not self.online:  # the encode stage's latents are of the V before M learned
            encode = make_encoder(vae_path(self.run.path), settings.vae.z_size)
            for path in episode_paths(self.run):
                self.replay.add(latents_of(encode, read_episode(path)))
        else:
            recorded = episode_paths(self.run) if self.learns_to_see else usable_episodes(self.run).paths
            self.replay.fill(recorded[: options.seed_episodes] if self.online else recorded)
        for number in range(self.rounds):
            self.recall_round(number)
        self.replay.all_seen()
        if self.begun:
            self.recall_round(self.rounds)
            for update in range(self.updates, self.updates + self.begun.row.count):
                self.cut(update)  # what of the round's frames was learned from already
        self.replay.check(options.window)

    def recall_round(self, number: int) -> None:
        """Add what was played in round `number` to the replay."""
        count = self.settings.actor_critic.round_episodes
        for episode in range(number * count, (number + 1) * count) if self.play else ():
            assert self.play is not None
            path = self.play.path(episode)
            try:
                self.replay.add(read_episode(path, self.arrays))
            except UserError:  # its actor is gone, it cannot be played again
                print(f"warning: {path} is missing or damaged: learning goes on without that episode", file=sys.stderr, flush=True)

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            UserError: what was learned since the last one is lost, and not worth going on from.
        """
        from env.run.training import arrays_of

        self.check_finite()
        for counter, value in zip(self.counters, (self.rounds, self.updates, self.steps)):
            counter.assign(value)
        begun = self.begun._asdict() | {"row": self.begun.row.state()} if self.begun else {}
        self.checkpoints.save(self.updates + (self.begun.row.count if self.begun else 0), arrays_of(self.kept), {"round": begun})

    def pulse(self, *_: int) -> None:
        """Stop here if somebody asked to: what is being played is played again."""
        if self._asked.signal:
            self.save()
            raise Stopped(self._asked.signal, f"in round {self.rounds + 1}")

    def cut(self, update: int) -> Batch:
        """An update's batch, decided by the run's seed and its number."""
        options, rng = self.settings.actor_critic, np.random.default_rng([self.settings.evolution_seed, 3, update])
        return self.replay.sample(rng, options.batch, options.window, options.near_ends)

    def batches(self, count: int) -> Iterator[tuple]:
        """The batches of the present round's next `count` updates."""
        from env.run.training import stream, with_seeds

        assert self.begun
        options, done, seed = self.settings.actor_critic, self.updates + self.begun.row.count, self.settings.evolution_seed

        def cut() -> Iterator[Any]:
            yield from map(self.cut, range(done, done + count))

        sizes = (self.settings.vae.z_size, self.task.actions.size)
        signature = batch_signature(options.batch, options.window, *sizes, self.learns_to_see, told(self.task, self.settings))
        return with_seeds(stream(cut, signature, ahead=4), seed, done)

    def begin_round(self) -> Round:
        """Play, if the real world is played."""
        from env.run.training import Row

        options, began, steps = self.settings.actor_critic, time.monotonic(), self.steps
        row: dict[str, float] = {}
        count = min(OFFLINE_ROUND, options.eval_every - self.updates % options.eval_every)
        if self.play:
            self.replay.all_seen()  # of the last round: what a resumed run cannot know
            scores, played = self.play.round(self.rounds, self.pulse)
            self.recall_round(self.rounds)
            steps += played
            row = {
                "played": float(np.mean(scores)),
                "played_min": min(scores),
                "played_max": max(scores),
                "play_seconds": time.monotonic() - began,
            }
            count = max(1, round(options.train_ratio * played / (options.batch * options.window)))
        return Round(row, Row(), min(count, options.updates - self.updates), steps)

    def learn_round(self) -> None:
        """Play, if the real world is played, then learn, or go on with a round that was begun."""
        self.begun = self.begun or self.begin_round()
        row, count = self.begun.row, self.begun.count
        for parts in self.batches(count - row.count):
            row.add(self.step(*parts))
            self.pulse()
        self.check_finite()
        self._seconds = row.seconds()  # a scoring may come before the round is finished

    def check_finite(self) -> None:
        """Raise UserError when a loss of the present round is no number."""
        means = self.begun.row.means() if self.begun and self.begun.row.count else {}
        bad = [key for key, value in means.items() if not np.isfinite(value)]
        if bad:
            what = f"controller: {bad[0]} became {means[bad[0]]}"
            raise UserError(f"{what}: the last checkpoint is from before it; lower learning rates, in a new run, may avoid it")

    @property
    def due(self) -> bool:
        """Whether C is to be scored before the present round is finished."""
        assert self.begun
        every = self.settings.actor_critic.eval_every
        return (self.updates + self.begun.count) // every > self.updates // every

    def finish_round(self) -> dict[str, float]:
        """The present round is whole; returns the log's row."""
        assert self.begun
        played, row, count, self.steps = self.begun
        self.begun, self.rounds, self.updates = None, self.rounds + 1, self.updates + count
        head = {"round": self.rounds, "update": self.updates, "steps": self.steps}
        return head | played | row.means() | {"seconds": played.get("play_seconds", 0.0) + self._seconds, "cores": available_cores()}

    def candidate(self) -> np.ndarray:
        """C's parameters as they are now, or their running mean, float32 [size]."""
        return self.learner.average.candidate()

    def keep(self, scores: np.ndarray, unplanned: bool = False) -> dict[str, float]:
        """Keep C, and M with it, if they are the best so far; returns what the log's row gets.

        Args:
            scores: C's.
            unplanned: whether it was scored only because the run ended: a longer one would not have been, and does not count it.
        """
        from controller.agent import save_controller

        note: dict[str, Any] = {
            "update": self.updates,
            "steps": self.steps,
            "score": float(scores.mean()),
            "std": float(scores.std()),
            "episodes": scores.size,
            "unplanned": unplanned,
        }
        if unplanned and np.isfinite(self.best):
            note["before"] = self.best
        if self.online:  # the best one's M alone is kept; on another this C is worth nothing
            note["made_with"] = {"rnn": f"that of update {self.updates}"}
        if note["score"] >= self.best:  # again the best, after a kill between these files and the checkpoint
            self.best = note["score"]
            # V and M first: without C, which says which ones it needs, they mean nothing.
            if self.learns_to_see:
                save_weights(self.folder / "vae.npz", self.vae, vae_meta(self.settings, self.updates))
                encode = make_encoder(self.folder / "vae.npz", self.settings.vae.z_size)
                if self.first is None:
                    self.first = first_frames(episode_paths(self.run))
                save_initial(self.folder / "initial.npz", encode, self.first)
            if self.online:
                meta = memory_meta(self.task, self.settings) | {"update": self.updates}
                save_weights(self.folder / "memory.npz", self.memory, meta)
                note |= {"made_with": fingerprints(model_paths(self.task.name, self.run.path))}
            beside = {name: np.asarray(variable) for name, variable in self.learner.beside_c().items()}
            save_arrays(self.folder / CRITIC, beside, {"update": self.updates})
            save_controller(self.folder / "best.npz", self.candidate(), self.settings, note)
        save_controller(self.folder / "mean.npz", self.candidate(), self.settings, note)
        return {"eval": note["score"], "eval_std": note["std"], "eval_best": self.best}


def frames_to_come(run: Run) -> int:
    """The most frames that a run's learning can see: those recorded, and those to be played."""
    settings, options = run.settings, run.settings.actor_critic
    longest = settings.world.steps() + 1
    pooled = sum(row["length"] + 1 for row in pooled_rows(run.path, settings, 0))
    recorded, a_round = settings.extract.episodes * longest + pooled, options.round_episodes * longest
    if settings.controller.world != "real":
        return recorded
    if not options.train_ratio:  # one update a round
        return recorded + options.updates * a_round
    steps = options.updates * options.batch * options.window / options.train_ratio
    return recorded + 2 * int(steps) + a_round  # an episode of one step has two frames


def begin_with(learner: ActorCritic, settings: Settings) -> None:
    """Let actor and critic begin as those of another run, if the settings name one. A C beside which no critic of its own lies gets a new
    one, which knows nothing at first: C may well become worse before it becomes better.

    Raises:
        UserError: the C is missing, or of another shape than this run's; or the critic is.
    """
    from controller.train import first_mean

    params = first_mean(settings, learner.actor.policy.size)
    if params is None:
        return
    learner.begin_with(params)
    path = start_path(settings.task, settings.controller.start)
    critic, how = path.with_name(CRITIC), "anew"
    if critic.exists():
        arrays, meta = load_arrays(critic)
        if meta.get("update") == load_arrays(path)[1].get("update"):
            try:
                learner.go_on_from(arrays)
            except ValueError as error:
                raise UserError(f"controller.start: the critic in {critic}: {error}: take a run with this one's settings") from None
            how = f"with {critic}"
        else:
            print(f"warning: {critic} is of another update than the C beside it: it is left", file=sys.stderr, flush=True)
    print(f"controller: the actor begins with {path}, the critic {how}", flush=True)


def model_start(run: Run) -> Path:
    """The V that learning begins with: that of M's stage, or of V's own."""
    with_m = run.path / "rnn" / "vae.npz"
    return with_m if with_m.exists() else run.path / "vae" / "weights.npz"
