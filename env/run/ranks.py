"""Work shared by MPI ranks, or done by one process alone: rank 0 works like every other rank.

Started by `mpirun -np 64 python controller/train.py`; without mpirun there is one rank. Waiting never spins: MPI's blocking
calls keep a core busy, which takes it from a rank that works when there are more ranks than cores.

Nothing waits for ever: while a rank works or waits it tells the next one in a ring, every few seconds, that it does (`Ranks.pulse`);
who hears nothing for too long ends the job. A rank that is stopped, or stuck in one step, is so found; one that dies, MPI finds.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from env.run.errors import UserError, as_user_error, refuse
from env.run.stopping import RESUME, Stopped, handled, stop_at_once

T = TypeVar("T")

BEAT = 5.0  # seconds between signs of life
DEADLINE = "WORLD_MODELS_DEADLINE"  # environment variable: seconds without one after which a rank counts as stuck; 0 for never
DEFAULT_DEADLINE = 300.0
STUCK = 70  # the exit code of a job that a stuck rank held up


def deadline() -> float:
    """What DEADLINE says.

    Raises:
        UserError: it is no number of seconds.
    """
    word = os.environ.get(DEADLINE, str(DEFAULT_DEADLINE))
    try:
        seconds = float(word)
    except ValueError:
        raise UserError(f"{DEADLINE} is {word!r}: give seconds, or 0 for never") from None
    return seconds if seconds > 0 else float("inf")


class Ranks:
    """The processes of this job.

    Attributes:
        rank: this process, 0..size-1.
        size: how many there are.
    """

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        self._failing = MPI.COMM_WORLD.Dup()  # its messages meet no others
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._ring = MPI.COMM_WORLD.Dup()
        self._before, self._after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        self._deadline = deadline()
        self._sent: Any = None  # the last sign of life on its way, and its numbers
        self._beaten, self._heard = -BEAT, time.monotonic()
        self._job = np.array([-1, -1], np.int64)
        self._job_before = self._job.copy()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes, prints and decides."""
        return self.rank == 0

    def share(self, items: list[T]) -> list[T]:
        """This rank's part of a list that is the same on all ranks; parts differ by one item at most."""
        return items[self.rank :: self.size]

    def pulse(self, candidate: int = -1, seed: int = -1) -> None:
        """Say that this rank is alive, and see whether the one before it in the ring is. Called again and again by whatever takes long.

        Args:
            candidate, seed: of an episode that it plays, to be named if it is the last that is heard of this rank.
        """
        now = time.monotonic()
        if self.size == 1 or now - self._beaten < BEAT:
            return
        if now - self._beaten > 4 * BEAT:  # this one was away itself, perhaps as all were: a job that was suspended
            self._heard = now
        self._beaten = now
        self._job[:] = candidate, seed
        if self._sent is None or self._sent[0].Test():
            numbers = self._job.copy()
            self._sent = self._ring.Isend(numbers, dest=self._after), numbers
        while self._ring.Iprobe(source=self._before):
            self._ring.Recv(self._job_before, source=self._before)
            self._heard = now
        if now - self._heard > self._deadline:
            candidate, seed = self._job_before.tolist()
            doing = f", last heard of in the episode of candidate {candidate}, seed {seed}" if seed >= 0 else ""
            silent = f"rank {self._before} of {self.size} has given no sign of life for {now - self._heard:.0f} s{doing}"
            print(f"error: {silent}: ending all ranks; the same command goes on from here", file=sys.stderr, flush=True)
            self.end(STUCK)

    def leave(self) -> None:
        """All ranks are done: wait for them, and let no sign of life be left on its way."""
        if self.size > 1:
            self._wait(self._ring.Ibarrier())
            while self._ring.Iprobe(source=self._before):
                self._ring.Recv(self._job_before, source=self._before)

    def _wait(self, request: Any) -> None:
        pause = 1e-5
        while not request.Test():
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
            self.pulse()

    def broadcast(self, array: np.ndarray) -> np.ndarray:
        """Rank 0's array, on every rank; the others give one of the same shape and dtype."""
        array = np.ascontiguousarray(array)
        if self.size > 1:
            self._wait(self._comm.Ibcast(array, root=0))
        return array

    def total(self, array: np.ndarray) -> np.ndarray:
        """The sum over ranks, on every rank. Exact where all but one rank give zero."""
        if self.size == 1:
            return array
        result = np.empty_like(array)
        self._wait(self._comm.Iallreduce(np.ascontiguousarray(array), result, op=self._mpi.SUM))
        return result

    def on_first(self, work: Callable[[], T]) -> T | None:
        """Run `work` on rank 0 while the others wait; they get None. Its UserError ends all ranks, with one line."""
        result, message = None, b""
        if self.first:
            try:
                result = work()
            except UserError as error:
                message = str(error).encode()
        size = self.broadcast(np.array([len(message)]))
        if size[0]:
            raise UserError(message.decode())
        return result

    def check_shared(self, folder: Path, seconds: float = 10.0) -> None:
        """Make sure that all ranks see one and the same folder, which rank 0 has made.

        Raises:
            UserError: another host does not see what rank 0 wrote there, within `seconds`, which network disks may take.
        """
        if self.size == 1:
            return
        token = self.broadcast(np.frombuffer(os.urandom(16), np.uint8).copy()).tobytes()
        mark = folder / f".seen-{token[:4].hex()}"
        if self.first:
            for left in folder.glob(".seen-*"):  # by a job that was killed
                left.unlink(missing_ok=True)
            mark.write_bytes(token)
        # Nobody looks before it is there: that it is not may be remembered for half a minute (NFS).
        self.broadcast(np.zeros(1))
        until, seen = time.monotonic() + seconds, False
        while not seen and time.monotonic() < until:
            seen = mark.exists() and mark.read_bytes() == token
            if not seen:
                time.sleep(0.1)
        blind = int(self.total(np.array([not seen], np.int64))[0])
        if self.first:
            mark.unlink(missing_ok=True)
        if blind:
            raise UserError(f"{blind} of {self.size} ranks do not see {folder}: the run must lie on a disk that all hosts share")

    def all_fail(self, seconds: float = 30.0) -> bool:
        """Called by a rank that gives up: whether all ranks do so within `seconds`."""
        request, until = self._failing.Ibarrier(), time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def end(self, code: int) -> None:
        """End all ranks at once."""
        if self.size > 1:
            self._comm.Abort(code)
        sys.exit(code)


# What launchers set in each rank's environment: MPICH's and Slurm's PMI, Open MPI.
LAUNCHED = ("PMI_RANK", "PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID")


def launched() -> bool:
    """Whether this process was started as a rank of a job."""
    return any(name in os.environ for name in LAUNCHED)


LAUNCHER = "WORLD_MODELS_LAUNCHER"  # environment variable: what starts ranks, to which their number is added, such as "srun --mpi=pmi2 -n"


def mpirun(ranks: int) -> list[str]:
    """The words that start a command on `ranks` ranks; none for one rank.

    Raises:
        UserError: there is no mpirun, or not the launcher that LAUNCHER names.
    """
    if ranks == 1:
        return []
    try:
        own = shlex.split(os.environ.get(LAUNCHER, ""))
    except ValueError as error:
        raise UserError(f"{LAUNCHER} is {os.environ[LAUNCHER]!r}, which is no command ({error})") from None
    if own:
        if shutil.which(own[0]) is None:
            raise UserError(f"{LAUNCHER} is {' '.join(own)!r}, but there is no {own[0]} here: mend it, or leave it out for mpirun")
        return [*own, str(ranks)]
    beside = Path(sys.executable).with_name("mpirun")  # the one of the installed mpich, which mpi4py was made for
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise UserError("there is no mpirun: install the packages of requirements.txt, or give --ranks 1")
    return [found, "-np", str(ranks)]


def run_ranks(main: Callable[[Ranks], None]) -> None:
    """Run a command on all ranks.

    A UserError that all ranks meet alike is printed once, and they leave with 2. If only some meet it, or on any other
    exception, the failing rank says so and ends the whole job, which would otherwise wait for that rank for ever.
    """
    try:
        ranks = Ranks()
    except UserError as error:
        refuse(error)
    try:
        with handled(stop_at_once):
            main(ranks)
            ranks.leave()
    except Stopped as stopped:
        # All ranks of a job that a batch system ends are told so; the first to get here ends the others.
        print(stopped if ranks.size == 1 else f"{stopped} (rank {ranks.rank} of {ranks.size})", file=sys.stderr, flush=True)
        ranks.end(RESUME)
    except UserError as error:
        if ranks.first:
            print(f"error: {error}", file=sys.stderr, flush=True)
        if not ranks.all_fail():
            if not ranks.first:
                print(f"error: {error} (rank {ranks.rank} of {ranks.size})", file=sys.stderr, flush=True)
            ranks.end(2)
        sys.exit(2)
    except KeyboardInterrupt:
        ranks.end(130)
    except Exception as error:
        known = as_user_error(error) if isinstance(error, OSError) else None
        if known is not None:  # one rank's disk is full: the others do not know
            print(f"error: {known}", file=sys.stderr, flush=True)
            ranks.end(2)
        traceback.print_exc()
        where = "".join(f" {note}" for note in getattr(error, "__notes__", []))
        line = f"rank {ranks.rank} of {ranks.size} failed{where} ({type(error).__name__}: {error}): ending all ranks"
        print(line, file=sys.stderr, flush=True)
        ranks.end(1)
