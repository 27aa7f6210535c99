"""What processes of a crew do in tests: light to import, since each of them imports it."""

from __future__ import annotations

import errno
import os
import signal
import time


class Ready:
    """Does what its task says."""

    def __init__(self, name: str) -> None:
        if name == "unprepared":
            raise ValueError("nothing is ready")
        self.name, self.done = name, 0

    def __call__(self, task, report):
        what, number = task
        self.done += 1
        if what == "raise":
            raise KeyError("no such thing\nat all")
        if what == "exit":
            os._exit(3)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if what == "sleep":
            report("pid", os.getpid())
            time.sleep(60)
        report("half of", number)
        return self.name, number**2


def failing_worker(options, path):
    """A worker of the leaderboard for which some losses fail in one way, others in another."""
    from benchmarks.leaderboard.runs import Worker

    worker = Worker(options, path)

    def work(task, report):
        if task.loss == "arc_face":
            raise FloatingPointError("the loss is not finite")
        if task.loss == "nce":
            os.kill(os.getpid(), signal.SIGKILL)
        return worker(task, report)

    return work


def full_worker(options, path):
    """A worker whose disk is full when it saves the state of a run."""
    from benchmarks.leaderboard.runs import Worker

    worker = Worker(options, path)
    save = worker.folder.save

    def full(name, state):
        if "losses" in state:
            raise OSError(errno.ENOSPC, "No space left on device", str(path / f"{name}.pt"))
        save(name, state)

    worker.folder.save = full
    return worker
