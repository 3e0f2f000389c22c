"""Ctrl-C and SIGTERM noted instead of obeyed, and obeyed the second time."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

NOTED = (signal.SIGINT, signal.SIGTERM)
SAME_SIGNAL_SECONDS = 1.0
"""Signals so soon after the first are the same one: ``timeout``, torchrun and a terminal's Ctrl-C send it twice."""


class NotedSignals:
    """From ``start`` to ``stop`` SIGINT and SIGTERM are only noted; a second one calls ``at_second``.

    Python runs its handlers in the main thread between two steps of the interpreter, which may be a long time when
    that thread waits inside a kernel or a collective operation. So a thread of its own counts the signals, through
    the file descriptor that the interpreter's C code writes their numbers to.

    Args:
        at_first: called in that thread with the signal's number, for a word to the user.
        at_second: called in that thread with the second signal's number; meant to end the process.

    Attributes:
        received: number of the first signal, 0 while there was none.
    """

    def __init__(self, at_first: Callable[[int], None], at_second: Callable[[int], None]) -> None:
        self.at_first = at_first
        self.at_second = at_second
        self.received = 0
        self._former: dict[signal.Signals, Any] = {}
        self._former_descriptor = -1
        self._mouth: socket.socket | None = None

    def start(self) -> None:
        """Takes the signals over; nothing happens in other threads than the main one, where Python forbids it."""
        if threading.current_thread() is not threading.main_thread() or self._mouth is not None:
            return
        ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._former_descriptor = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        _listening.append(self)
        threading.Thread(target=self._count, args=(ear,), name="noted-signals", daemon=True).start()
        self._former = {number: signal.signal(number, self._note) for number in NOTED}

    def stop(self) -> None:
        """Gives the signals back, where nobody took them since; may be called more than once."""
        if self._mouth is None:
            return
        for number, handler in self._former.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._former_descriptor)
        _listening.remove(self)
        self._mouth.send(b"\0")
        self._mouth.close()
        self._mouth = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

    def _count(self, ear: socket.socket) -> None:
        first = None
        with ear:
            while (number := ear.recv(1)) not in (b"\0", b""):
                if number[0] not in NOTED:
                    continue
                if first is None:
                    first = time.monotonic()
                    self.at_first(number[0])
                elif time.monotonic() - first > SAME_SIGNAL_SECONDS:
                    self.at_second(number[0])


_listening: list[NotedSignals] = []


def _turn_deaf() -> None:
    """A forked worker shares the descriptor: what it receives (a terminal signals all) would be counted again."""
    if _listening:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turn_deaf)
