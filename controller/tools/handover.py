"""Whether M's dream is as dangerous as the game: dreams that begin at moments of real games, where C has just played.

    python controller/extract.py doom --run runs/skilled --policy controller --episodes 60 --min-frames 1 --seed 9
    python controller/tools/handover.py doom --recordings runs/skilled
    python controller/tools/handover.py doom --recordings runs/skilled --temperatures 0.5,1.15 --json handover.json

M is shown a recorded game up to a moment; from there on it dreams, and the same C acts. What share dies within so many steps, in the
dreams and in the game? Soon after the moment, what is on its way to the agent is what M was shown; later, M has to invent it. Plays
with the V, M and C that come with the project, or those of --run.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tempfile
from typing import Any

import numpy as np

from controller.results.studies import parse_numbers
from env.episodes import LATENTS, Episode, read_episode
from env.run.command import GAMES, check_writable, progress, run_command
from env.run.compute import start_tensorflow
from env.run.errors import UserError
from env.run.files import write_json
from env.run.flags import OneLineParser
from env.run.settings import Settings
from env.run.weights import controller_path, fingerprint, fingerprints, model_paths
from env.tasks import Task, get_task
from rnn.evaluate import encode_recordings, follow, recorded_settings, settings_of

EVERY = 25  # steps between moments
HORIZONS = (10, 25, 50, 100, 200)  # steps


NEVER = HORIZONS[-1] + 1  # or not within any horizon


def check_recordings(settings: Settings, recordings: Path) -> None:
    """Raise UserError when the recorded games are not those of C, or without the short ones."""
    if not settings.dream_ends:
        raise UserError(f"the M of {settings.task} knows of no death: there is nothing to compare")
    if settings.extract.policy != "controller" or settings.extract.min_frames > 1:
        raise UserError(f"{recordings} holds other games than all of C's: record with --policy controller --min-frames 1")


def real_deaths(episodes: list[Episode]) -> np.ndarray:
    """Steps that the agent had left in the game at each moment, in the order of `moment_states`, int64; NEVER where the game was cut.

    Raises:
        UserError: no game is long enough for a moment.
    """
    longest = max(len(episode["done"]) for episode in episodes)
    moments = range(EVERY, longest, EVERY)
    left = [len(e["done"]) - t if e["done"][-1] else NEVER for t in moments for e in episodes if len(e["done"]) > t]
    if not left:
        raise UserError(f"the recorded games have at most {longest} steps: a moment comes every {EVERY}")
    return np.array(left)


def moment_states(memory: Any, episodes: list[Episode]) -> Any:
    """M's states at all moments of all episodes, a nest of tensors [moments, ...]."""
    import tensorflow as tf

    parts = []
    for t, (state, _) in enumerate(follow(memory, episodes)):
        if t and t % EVERY == 0:
            going = [lane for lane, episode in enumerate(episodes) if len(episode["done"]) > t]
            parts.append(tf.nest.map_structure(lambda part, going=going: tf.gather(part, going), state))
    return tf.nest.map_structure(lambda *pieces: tf.concat(pieces, axis=0), *parts)


def dreamt_deaths(
    memory: Any, act: Any, features: str, params: np.ndarray, states: Any, temperature: float, seed: int, acting: int = 0
) -> np.ndarray:
    """Steps until the dream from each state ends, int64 [moments]; more than the last horizon where it does not by then. `act` and
    `acting` as in rnn/dream.py."""
    import tensorflow as tf

    dreaming = memory.imagine_noise
    count = int(tf.nest.flatten(states)[0].shape[0])
    params = tf.repeat(tf.constant(params[None], tf.float32), count, axis=0)

    @tf.function
    def step(state: Any, noise: tf.Tensor) -> tuple[Any, tf.Tensor]:
        action = act(params, memory.features(state, features), noise[:, dreaming:])
        imagined = memory.imagine(state, action, temperature, noise[:, :dreaming])
        return imagined.state, imagined.over

    ends = np.full(count, NEVER)
    for t in progress(range(HORIZONS[-1]), desc=f"dreams at {temperature:g}", unit="step"):
        states, ended = step(states, tf.random.stateless_normal((count, dreaming + acting), (seed, t)))
        ends = np.where((ends == NEVER) & ended.numpy(), t + 1, ends)
    return ends


def shares(dreamt: np.ndarray, real: np.ndarray) -> dict[str, list[float]]:
    """The share of dreams that end within each horizon: of all, of those whose game does so, too, and of the others."""
    found: dict[str, list[float]] = {"all": [], "game_ends": [], "game_goes_on": []}
    for horizon in HORIZONS:
        ended, dies = dreamt <= horizon, real <= horizon
        for key, moments in (("all", np.ones_like(dies)), ("game_ends", dies), ("game_goes_on", ~dies)):
            found[key].append(float(ended[moments].mean()) if moments.any() else float("nan"))
    return found


def compare(task: Task, run: Path | None, recordings: Path, temperatures: tuple[float, ...] | None) -> dict[str, Any]:
    """The shares that die within each horizon, in the game, and in dreams at each temperature (C's own, if None)."""
    check_recordings(recorded_settings(task, recordings), recordings)
    start_tensorflow()
    from controller.agent import load_controller, make_policy
    from controller.simulate import make_act
    from rnn.memory import load_memory

    weights = controller_path(task.name, run or Path(), run is not None, use_shipped=run is None)
    params, settings = load_controller(weights, task, settings_of(task, run))
    paths = model_paths(task.name, run)
    memory = load_memory(paths.rnn, task, settings)
    policy = make_policy(task, settings, memory)
    act = make_act(policy, task.actions)
    with tempfile.TemporaryDirectory() as folder:
        episodes = [read_episode(path, LATENTS) for path in encode_recordings(task, run, recordings, Path(folder))]
    real = real_deaths(episodes)
    states = moment_states(memory, episodes)
    c = settings.controller
    dreams = {
        f"{temperature:g}": shares(dreamt_deaths(memory, act, c.features, params, states, temperature, 1, policy.noise), real)
        for temperature in temperatures or (c.temperature,)
    }
    game = [float(np.mean(real <= horizon)) for horizon in HORIZONS]
    made_of = fingerprints(paths) | {"controller": fingerprint(weights)}
    return {"task": task.name, "fingerprints": made_of, "moments": len(real), "horizons": HORIZONS, "game": game, "dreams": dreams}


def main() -> None:
    parser = OneLineParser(description=__doc__, prog="handover.py")
    parser.add_argument("task", nargs="?", default="doom", metavar="TASK", help=f"{GAMES} (default: doom)")
    parser.add_argument("--recordings", type=Path, required=True, metavar="DIR", help="a run whose recorded episodes C has played")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run whose V, M and C dream (default: what comes with the project)")
    parser.add_argument("--temperatures", metavar="LIST", help="of the dreams, such as 0.5,1.15 (default: that at which C was evolved)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parsed = parser.parse_args()
    check_writable(parsed.json)
    temperatures = parse_numbers(parsed.temperatures, "--temperatures", float, "0.5,1.15") if parsed.temperatures else None
    found = compare(get_task(parsed.task), parsed.run, parsed.recordings, temperatures)
    rows = [("in the game", found["game"])]
    for name, dreams in found["dreams"].items():
        rows += [(f"dreams at {name}", dreams["all"]), ("  where the game ends, too", dreams["game_ends"])]
        rows += [("  where the game goes on", dreams["game_goes_on"])]
    print(f"{found['moments']} moments; share that ends within   " + "".join(f"{h:>7}" for h in HORIZONS) + " steps")
    for name, row in rows:
        print(f"{name:<39}" + "".join(f"{share:>7.1%}" for share in row))
    if parsed.json:
        write_json(parsed.json, found)


if __name__ == "__main__":
    run_command(main)
