"""A SIGTERM that came just before the main thread blocked is sent once more, since nothing else would wake that."""

import os
import signal
import threading
import time
from collections.abc import Callable

#: Seconds after which a signal that was not noticed is sent again.
NOTICED_WITHIN = 0.1


class SigtermWatch:
    """Watches over SIGTERM from a thread of its own, until the signal was noticed. Made in the main thread.

    Python notes a signal, and handles it when its main thread next comes to that. A signal that comes after the last
    such moment before a blocking call does not end the call: the process would wait for ever. That is rare, but not
    where another thread holds the interpreter just then, as the one that writes often does.

    Parameters
    ----------
    is_noticed
        Whether the handler was called, or is no longer ours.
    about_to_send
        Called before the signal is sent again.
    """

    def __init__(self, is_noticed: Callable[[], bool], about_to_send: Callable[[], None]) -> None:
        self._is_noticed = is_noticed
        self._about_to_send = about_to_send
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        if before != -1:  # an event loop's, which is woken by it
            signal.set_wakeup_fd(before)
            self._close()
            return
        threading.Thread(target=self._run, name="dreamlake-sigterm", daemon=True).start()

    def after_fork_in_child(self) -> None:
        """Leave it to the parent, whose pipe it is: the child's signals are none of its own."""
        if self._writing < 0:
            return
        before = signal.set_wakeup_fd(-1)
        if before not in (-1, self._writing):
            signal.set_wakeup_fd(before)
        self._close()

    def _close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)
        self._writing = -1

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while signal.SIGTERM not in os.read(self._reading, 512):
            pass
        time.sleep(NOTICED_WITHIN)
        while not self._is_noticed():
            self._about_to_send()
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(NOTICED_WITHIN)
