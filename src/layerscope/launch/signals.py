"""Ctrl-C and SIGTERM as events of a queue, for whoever waits for runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

SAME_SIGNAL_SECONDS = 1.0
"""Signals so soon after the first are the same one: ``timeout`` and a terminal can send it twice."""


@contextmanager
def noted_signals() -> Iterator[SimpleQueue[Any]]:
    """A queue with the numbers of signals; a closed terminal (SIGHUP) counts as SIGTERM, unless ``nohup`` ignores it.

    Python allows it in the main thread alone; elsewhere the queue gets none.
    """
    events: SimpleQueue[Any] = SimpleQueue()
    former: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            meant = int(signal.SIGTERM if number is signal.SIGHUP else number)
            # SimpleQueue.put may interrupt itself, as a handler of signals must.
            former[number] = signal.signal(number, lambda *_, meant=meant: events.put(meant))
    try:
        yield events
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
