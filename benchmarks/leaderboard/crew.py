"""Processes that work on tasks, each on one at a time: one that dies costs its task, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from benchmarks.command.arguments import one_line

__all__ = ["Event", "Report", "crew"]

_GRACE = 10  # seconds that a process has to end when it is told to

Report = Callable[..., None]  # of what a task wants to be known while it runs
Work = Callable[[Any, Report], Any]  # from a task to its result


class Event(NamedTuple):
    """What became known of a task.

    Attributes:
        task: which one.
        kind: "report", "done", "failed", or "stopped" where the fault is none of the task's: no other can do better.
        content: what was reported, the result, or what went wrong, in words.
    """

    task: Any
    kind: str
    content: Any


def crew(prepare: Callable[..., Work], arguments: tuple[Any, ...], tasks: Iterable[Any], jobs: int) -> Generator[Event, None, None]:
    """Do tasks in so many processes, in order, and tell what becomes of them. All processes end with the iteration: close it.

    Args:
        prepare: what a process calls with `arguments` when it gets its first task. It returns what does a task. Both are pickled.
        arguments: see above.
        tasks: what to do.
        jobs: processes at a time.

    Yields:
        Events, of each task one that is no report, unless the iteration ends before.
    """
    waiting, busy, idle = deque(tasks), dict[Connection, _Worker](), list[_Worker]()
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker = idle.pop() if idle else _Worker(prepare, arguments)
                if worker.take(waiting[0]):
                    busy[worker.connection] = worker
                    waiting.popleft()
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                event = busy[connection].event()
                if event.kind != "report":
                    worker = busy.pop(connection)
                    if worker.alive:
                        idle.append(worker)
                yield event
    finally:
        for worker in (*busy.values(), *idle):
            worker.end()


class _Worker:
    """A process, seen from the one that started it."""

    def __init__(self, prepare: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
        context = get_context("spawn")  # a fork of a process with threads may stop for ever, and cannot use an accelerator
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, prepare, arguments))
        self.process.start()
        other.close()  # the end of the process is the end of the file then
        self.alive, self.task = True, None

    def take(self, task: Any) -> bool:
        """Give it a task; false if it has died."""
        self.task = task
        try:
            self.connection.send(task)
        except OSError:
            self.end()
        return self.alive

    def event(self) -> Event:
        """What it says, or that it says nothing any more."""
        try:
            return Event(self.task, *self.connection.recv())
        except (EOFError, OSError):
            self.process.join(_GRACE)
            self.end()
            return Event(self.task, "failed", _death(self.process.exitcode))

    def end(self) -> None:
        """End the process, wherever it is: files are replaced as a whole."""
        self.alive = False
        self.connection.close()
        self.process.terminate()
        self.process.join(_GRACE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
            return f"its process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"its process ended with status {status}"


def _serve(connection: Connection, prepare: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it comes to all processes of a terminal: the first one tells the others
    threading.Thread(target=_follow, daemon=True).start()
    work: Work | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # nobody listens any more
        while True:
            task = connection.recv()
            try:
                work = work or prepare(*arguments)
                answer = "done", work(task, lambda *content: connection.send(("report", content)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except (ImportError, OSError) as error:  # of a disk, of the data: not of the task
                answer = "stopped", one_line(error)
            except Exception as error:
                answer = "failed", f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
            connection.send(answer)


def _follow() -> None:
    """End with the process that started this one, even if it is killed: nobody else may write to its folder meanwhile."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
