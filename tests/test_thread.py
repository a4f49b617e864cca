"""The thread that works for a session: who waits for a stretch without Python's lock is let go on, by whatever ends."""

from __future__ import annotations

import threading

import pytest
from crashlib import in_thread

from dreamlake.engine.thread import Worker


@pytest.fixture
def worker() -> Worker:
    return Worker("test", lambda: 60.0, lambda: None, lambda: None, lambda: None)


def test_all_who_wait_go_on_when_the_thread_is_free(worker: Worker) -> None:
    waiters = [in_thread(lambda: worker.wait_until_free(60)) for _ in range(3)]
    while len(worker._waiting) < 3:
        threading.Event().wait(0.001)
    worker.free()
    for waiter in waiters:
        waiter.join(30)
        assert not waiter.is_alive()
    assert not worker._waiting


def test_the_end_of_a_request_lets_those_go_on_who_wait(worker: Worker) -> None:
    go = threading.Event()
    worker.start()
    worker.post(lambda: go.wait(60))
    waiter = in_thread(lambda: worker.wait_until_free(60))
    while not worker._waiting:
        threading.Event().wait(0.001)
    assert waiter.is_alive()
    go.set()
    waiter.join(30)
    assert not waiter.is_alive()
    worker.stop(30)


def test_nobody_waits_longer_than_asked_or_is_remembered(worker: Worker) -> None:
    worker.free()  # a word that nobody hears is not kept: the next one waits for its own
    for _ in range(3):
        worker.wait_until_free(0.001)
    assert not worker._waiting
