"""Being asked to stop: by SIGTERM, or by SIGUSR1 as batch systems do before the time is up. A command then writes what it goes on from,
and leaves with an exit code of its own.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

RESUME = 75  # the exit code that says: the same command goes on from here (EX_TEMPFAIL of sysexits.h)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):  # as KeyboardInterrupt: no one who catches exceptions means it
    """This process was asked to stop, and all that it needs to go on is on disk.

    Args:
        number: of the signal.
        where: how far it was, if that is known.
    """

    def __init__(self, number: int, where: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}{' ' if where else ''}{where}: the same command goes on from here (exit code {RESUME})")


class Asked:
    """Whether somebody asked.

    Attributes:
        signal: the number of the signal that came; 0 for none.
    """

    signal = 0


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within it, a signal to stop calls `handler`. (Outside the main thread none can be caught.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Within it, a signal to stop is only noted, for work that has something to write first."""
    asked = Asked()

    def note(number: int, frame: Any) -> None:
        asked.signal = number

    with handled(note):
        yield asked


def stop_at_once(number: int, frame: Any) -> None:
    """A handler for work that keeps on disk all that is whole anyway.

    Raises:
        Stopped
    """
    raise Stopped(number)
