"""Score M on episodes that it has not learned from: how likely it holds what happened, and whether it foresees the agent's death.

    python controller/extract.py doom --run runs/skilled --policy controller --episodes 100 --seed 9
    python rnn/evaluate.py doom --recordings runs/skilled
    python rnn/evaluate.py doom --run runs/doom --recordings runs/skilled --json foreseen.json

Recordings are any run's; V and M are those of --run, or those that come with the project; any memory. M is told all that happened so
far, and asked for the next step alone. A death counts as foreseen where M holds it for likelier than not, as in a dream, in one of the
last LATE steps before it; recordings that go on after the world is done (extract.past_done) say nothing of that.

Open loop: from every EVERY-th moment on, M is told the actions alone. The mean of DREAMS such dreams, at temperature 1, is compared with
what V says of the real frames 1, 5, 15 and 50 steps later: the squared error in each dimension of z as a share of its variance over all
recordings, averaged over the dimensions that V uses, those with a variance above USED. A forecast that knows nothing has 1. "still" is
the error of the last real z.

Deaths in dreams: from every moment on M dreams by the actions that were taken, and says at each step how likely the agent dies. "deaths
ahead" is the sum of it 1, 5 and 15 steps into the dreams as a share of the deaths that came there: below 1 the dreams are too easy.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from env.episodes import LATENTS, Episode, episode_path, read_episode
from env.run.command import GAMES, check_writable, progress, run_command
from env.run.compute import start_tensorflow
from env.run.errors import UserError
from env.run.files import write_json
from env.run.flags import OneLineParser
from env.run.rundir import Run, saved_settings
from env.run.settings import Settings
from env.run.weights import fingerprint, fingerprints, memory_path, model_paths
from env.tasks import Task, get_task
from rnn.sequences import Episodes, stream_batches
from vae.encode import encode_episode, make_encoder
from vae.train import episode_paths

if TYPE_CHECKING:
    from rnn.memory import Memory

LATE = 3  # steps
AHEAD = (1, 5, 15, 50)  # steps of open loop
ENDS_AHEAD = (1, 5, 15)  # steps into a dream
EVERY, DREAMS, USED = 50, 16, 0.1
LEAST = 1e-6  # no probability counts as less
ROWS_AT_ONCE = 512  # dreams of one call
ROWS, WINDOW = 10, 100  # of the batches by which the likelihood is taken, at most so many rows


def settings_of(task: Task, run: Path | None) -> Settings:
    """Those that V and M were made with: a run's, or the paper's, which the shipped ones have.

    Raises:
        UserError: the run is none of this game, or it trained no V and M.
    """
    if run is None:
        return task.scales["paper"]
    settings = recorded_settings(task, run)
    model_paths(task.name, run)  # raises if one of the two is there without the other
    if not memory_path(run).exists():
        raise UserError(f"{run} has no V and M: give a run that trained them, or leave --run out")
    return settings


def recorded_settings(task: Task, run: Path) -> Settings:
    """Those of a run. Raises UserError when it is none of this game."""
    settings = saved_settings(run)
    if settings is None or settings.task != task.name:
        raise UserError(f"{run} is no run of {task.name}: give one that controller/extract.py or 'bash run.sh {task.word}' made")
    return settings


def encode_recordings(task: Task, run: Path | None, recordings: Path, folder: Path, most: int | None = None) -> list[Path]:
    """The latents of the first `most` episodes that a run recorded itself, or of all, by the V of `run`, written to `folder`."""
    settings, recorded = settings_of(task, run), recorded_settings(task, recordings)
    if settings.world.repeat != recorded.world.repeat:
        known, held = settings.world.repeat, recorded.world.repeat
        raise UserError(f"{recordings} has world.repeat {held}, this M's is {known}: its steps are others; give recordings that fit")
    sources = episode_paths(Run(recordings, recorded, lock=False))[: recorded.extract.episodes][:most]
    encode = make_encoder(model_paths(task.name, run).vae, settings.vae.z_size)
    targets = [episode_path(folder, index) for index in range(len(sources))]
    for source, target in zip(progress(sources, desc="encode", unit="episode"), targets):
        encode_episode(encode, source, target)
    return targets


def likelihood(memory: Memory, paths: list[Path], seed: int = 0) -> dict[str, float]:
    """The terms of M's loss, means over all that was recorded but what does not fill a last window.

    The frame that an episode's last action led to is left out for each memory, as the paper's M is not told of it. An RSSM learns of the
    reward and the end of an action by the frame that follows: those of the last action are then not in its "reward" and "cont".

    Raises:
        UserError: the recordings are shorter than one batch.
    """
    import tensorflow as tf

    lengths = np.array([len(read_episode(path, ("done",))["done"]) for path in paths])
    lanes = min(ROWS, int(lengths.sum()) // WINDOW)
    if not lanes:
        raise UserError(f"the recordings have {lengths.sum()} frames: at least {WINDOW} are needed")
    terms = tf.function(memory.loss_terms)
    carried, rows = memory.blank(lanes), []
    for number, batch in enumerate(stream_batches(Episodes(paths, lengths), lanes, WINDOW, np.random.default_rng(seed))):
        noise = tf.random.stateless_normal((lanes, WINDOW, memory.sample_noise), (seed, number))
        found, carried = terms(batch._replace(**{key: tf.constant(value) for key, value in batch._asdict().items()}), noise, carried)
        rows.append({key: float(value) for key, value in found.items()})
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def follow(memory: Memory, episodes: list[Episode], seed: int = 0) -> Iterator[tuple[Any, np.ndarray]]:
    """M's states [episodes, ...] as it is shown these episodes side by side, at each of their steps, and the probability, before the
    step's outcome is shown, that the agent dies at it: float32 [episodes]. What goes on beyond an episode's end means nothing."""
    import tensorflow as tf

    lanes, longest = len(episodes), max(len(episode["done"]) for episode in episodes)
    mu, logvar = (np.zeros((longest + 1, lanes, memory.z_size), np.float32) for _ in range(2))
    actions = np.zeros((longest, lanes, episodes[0]["action"].shape[1]), np.float32)
    for lane, episode in enumerate(episodes):
        steps = len(episode["done"])
        mu[: steps + 1, lane], logvar[: steps + 1, lane], actions[:steps, lane] = episode["mu"], episode["logvar"], episode["action"]
    z = mu + np.exp(logvar / 2) * np.random.default_rng(seed).standard_normal(mu.shape).astype(np.float32)

    @tf.function
    def step(state: Any, action: tf.Tensor, x: tf.Tensor, noise: tf.Tensor) -> tuple[Any, tf.Tensor]:
        goes_on = memory.imagine(state, action, 1.0, noise[:, : memory.imagine_noise]).goes_on
        return memory.observe(state, action, x, noise[:, : memory.observe_noise]), 1.0 - goes_on

    rng, widest = np.random.default_rng((seed, 1)), max(memory.initial_noise, memory.observe_noise, memory.imagine_noise)
    state = memory.initial(tf.constant(z[0]), tf.constant(rng.standard_normal((lanes, memory.initial_noise), np.float32)))
    for t in progress(range(longest), desc="M", unit="step"):
        noise = tf.constant(rng.standard_normal((lanes, widest), np.float32))
        after, chance = step(state, tf.constant(actions[t]), tf.constant(z[t + 1]), noise)
        yield state, chance.numpy()
        state = after


def death_chances(memory: Memory, episodes: list[Episode], seed: int = 0) -> list[np.ndarray]:
    """For each step of each episode M's probability, before it comes, that the agent dies at it: float32 [T] each."""
    chances = np.stack([chance for _, chance in follow(memory, episodes, seed)])
    return [chances[: len(episode["done"]), lane] for lane, episode in enumerate(episodes)]


def open_loop(memory: Memory, episodes: list[Episode], seed: int = 0) -> dict[str, float]:
    """The error of M's forecasts, see above: "open_1" and so on, "still_1" and so on, and "moments", how many there were.

    Raises:
        UserError: no episode is long enough.
    """
    import tensorflow as tf

    farthest, lengths = AHEAD[-1], [len(episode["done"]) for episode in episodes]
    found: list[tuple[Any, int, int]] = []  # M's state, and the moment's episode and step
    for t, (state, _) in enumerate(follow(memory, episodes, seed)):
        lanes = [lane for lane, steps in enumerate(lengths) if t and t % EVERY == 0 and t + farthest <= steps]
        found += [(tf.nest.map_structure(lambda part: part[lane], state), lane, t) for lane in lanes]
    if not found:
        raise UserError(f"no recorded episode has {EVERY + farthest} steps: none is long enough for a forecast")

    @tf.function(reduce_retracing=True)
    def ahead(state: Any, action: tf.Tensor, noise: tf.Tensor) -> tuple[Any, tf.Tensor]:
        state = memory.imagine(state, action, tf.constant(1.0), noise).state
        return state, memory.latent(state)

    rng, forecasts = np.random.default_rng(seed), []
    for start in range(0, len(found), ROWS_AT_ONCE // DREAMS):
        group = found[start : start + ROWS_AT_ONCE // DREAMS]
        state = tf.nest.map_structure(lambda *parts: tf.repeat(tf.stack(parts), DREAMS, axis=0), *(state for state, _, _ in group))
        means = []
        for step in range(farthest):
            action = np.stack([episodes[lane]["action"][t + step] for _, lane, t in group]).repeat(DREAMS, axis=0)
            noise = rng.standard_normal((len(action), memory.imagine_noise), np.float32)
            state, z = ahead(state, tf.constant(action), tf.constant(noise))
            means.append(z.numpy().reshape(len(group), DREAMS, -1).mean(axis=1))
        forecasts.append(np.stack(means, axis=1))
    forecast = np.concatenate(forecasts)  # [moments, farthest, z_size]
    seen = np.stack([episodes[lane]["mu"][t : t + farthest + 1].astype(np.float32) for _, lane, t in found])
    variance = np.concatenate([episode["mu"] for episode in episodes]).astype(np.float32).var(axis=0)
    used = variance > USED

    def error(guess: np.ndarray, ahead_of: int) -> float:
        return float((np.square(guess - seen[:, ahead_of]).mean(axis=0)[used] / variance[used]).mean()) if used.any() else float("nan")

    figures = {f"open_{k}": error(forecast[:, k - 1], k) for k in AHEAD} | {f"still_{k}": error(seen[:, 0], k) for k in AHEAD}
    return figures | {"moments": len(found), "used_dimensions": int(used.sum())}


def deaths_ahead(memory: Memory, episodes: list[Episode], seed: int = 0) -> dict[str, float]:
    """How often agents die in M's dreams where they died in the world: "deaths_ahead_1" and so on, see above; nan where nobody died."""
    import tensorflow as tf

    farthest, lengths = ENDS_AHEAD[-1], np.array([len(episode["done"]) for episode in episodes])
    died = np.array([bool(episode["done"][-1]) for episode in episodes])
    actions = np.zeros((lengths.max() + farthest, len(episodes), episodes[0]["action"].shape[1]), np.float32)
    for lane, episode in enumerate(episodes):
        actions[: lengths[lane], lane] = episode["action"]

    @tf.function
    def ahead(state: Any, actions: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        chances = []
        for step in range(farthest):
            state, _, goes_on, _ = memory.imagine(state, actions[step], tf.constant(1.0), noise[step])
            chances.append(1.0 - goes_on)
        return tf.stack(chances)

    rng, steps = np.random.default_rng((seed, 2)), np.arange(1, farthest + 1)[:, None]
    expected, came = np.zeros(farthest), np.zeros(farthest)
    for t, (state, _) in enumerate(follow(memory, episodes, seed)):
        noise = rng.standard_normal((farthest, len(episodes), memory.imagine_noise), np.float32)
        chances = ahead(state, tf.constant(actions[t : t + farthest]), tf.constant(noise)).numpy()
        expected += np.where(steps <= lengths - t, chances, 0.0).sum(axis=1)
        came += ((steps == lengths - t) & died).sum(axis=1)
    return {f"deaths_ahead_{k}": float(expected[k - 1] / came[k - 1]) if came[k - 1] else float("nan") for k in ENDS_AHEAD}


def foreseen(chances: list[np.ndarray], done: list[np.ndarray]) -> dict[str, float]:
    """How M's probabilities of death agree with what happened.

    Args:
        chances: by `death_chances`.
        done: whether the step was the death, bool [T] each.

    Returns:
        steps, deaths: how many there were.
        recall: the share of deaths foreseen; recall_last: in the last step itself.
        precision: the share of warnings (runs of steps at which M holds death for likelier than not) that were followed by one.
        false_warnings: the others, for each 1,000 steps.
        expected_deaths: the sum of all probabilities.
        loss_end: minus the log-likelihood, in nats for each step, of what happened, death or none; loss_end_constant: of the constant
        probability that fits these episodes best. An RSSM's probability is that of one draw of what it imagines: where draws differ,
        their mean would be likelier.
    """
    late, last, right, wrong = 0, 0, 0, 0
    for chance, end in zip(chances, done):
        warned = chance > 0.5
        starts = np.flatnonzero(warned & ~np.concatenate([[False], warned[:-1]]))
        stops = np.flatnonzero(warned & ~np.concatenate([warned[1:], [False]]))
        meant = [bool(end[-1] and stop >= len(end) - LATE) for stop in stops]
        right, wrong = right + sum(meant), wrong + len(starts) - sum(meant)
        late += int(end[-1] and warned[-LATE:].any())
        last += int(end[-1] and warned[-1])
    steps, deaths = sum(map(len, done)), sum(bool(end[-1]) for end in done)

    def loss(chance: np.ndarray) -> float:
        happened = np.where(np.concatenate(done), chance, 1.0 - chance)
        return float(-np.log(np.maximum(happened, LEAST)).mean())

    return {
        "steps": steps,
        "deaths": deaths,
        "recall": late / deaths if deaths else float("nan"),
        "recall_last": last / deaths if deaths else float("nan"),
        "precision": right / (right + wrong) if right + wrong else float("nan"),
        "false_warnings": 1000 * wrong / steps,
        "expected_deaths": float(sum(chance.sum() for chance in chances)),
        "loss_end": loss(np.concatenate(chances)),
        "loss_end_constant": loss(np.full(steps, deaths / steps)),
    }


def score_memory(task: Task, run: Path | None, recordings: Path, most: int | None = None) -> dict[str, Any]:
    """All figures of the V and M of `run` on the recordings of another run, or on the first `most` of them."""
    if settings_of(task, run).sees_pixels:
        raise UserError("this M and its V learned together from pixels: there is no z of V's own to compare its forecasts with")
    start_tensorflow()
    from rnn.memory import load_memory

    paths = model_paths(task.name, run)
    memory = load_memory(paths.rnn, task, settings_of(task, run))
    with tempfile.TemporaryDirectory() as folder:
        latents = encode_recordings(task, run, recordings, Path(folder), most)
        figures: dict[str, Any] = {
            "task": task.name,
            "memory": settings_of(task, run).memory,
            "fingerprints": fingerprints(paths),
            "recordings": fingerprint(recordings / "extract" / "log.jsonl"),
            "episodes": len(latents),
        }
        figures |= {f"loss_{key}" if key != "loss" else key: value for key, value in likelihood(memory, latents).items()}
        episodes = [read_episode(path, LATENTS) for path in latents]
        if max(len(episode["done"]) for episode in episodes) >= EVERY + AHEAD[-1]:
            figures |= open_loop(memory, episodes)
        # Recordings that go on after the world is done hold ends in their midst, which are none of those that M foresees.
        if memory.foresees_end and not recorded_settings(task, recordings).extract.past_done:
            figures |= foreseen(death_chances(memory, episodes), [episode["done"] for episode in episodes])
            figures |= deaths_ahead(memory, episodes)
    return figures


def main() -> None:
    parser = OneLineParser(description=__doc__, prog="evaluate.py")
    parser.add_argument("task", nargs="?", default="carracing", metavar="TASK", help=f"{GAMES} (default: carracing)")
    parser.add_argument("--recordings", type=Path, required=True, metavar="DIR", help="the run whose recorded episodes M is scored on")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run whose V and M are scored (default: what comes with the project)")
    parser.add_argument("--episodes", type=int, metavar="int", help="take the first so many of them only (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parsed = parser.parse_args()
    if parsed.episodes is not None and parsed.episodes < 1:
        raise UserError(f"--episodes is {parsed.episodes}: it must be at least 1")
    check_writable(parsed.json)
    figures = score_memory(get_task(parsed.task), parsed.run, parsed.recordings, parsed.episodes)
    for key, value in figures.items():
        if isinstance(value, (int, float)):
            print(f"{key:<16}{value:>12,.4g}" if isinstance(value, float) else f"{key:<16}{value:>12,}")
    if parsed.json:
        write_json(parsed.json, figures)


if __name__ == "__main__":
    run_command(main)
