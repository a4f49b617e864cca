"""Sends a SIGTERM that came just before the main thread blocked to it once more: nothing else would wake that."""

import os
import signal
import threading
import time
from collections.abc import Callable

#: Seconds after which a signal that the main thread has not noticed is sent to it again: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class SigtermWatch:
    """Watches from a thread of its own until a SIGTERM is noticed. Made in the main thread, where no other is.

    Python notes a signal when it comes, and calls its handler when the main thread next looks. A signal that comes
    after the last look before a blocking call does not end the call, which then blocks for ever. That is rare, but
    not where another thread takes the interpreter just then, as the one that writes often does.

    Parameters
    ----------
    is_handled_here
        Whether the handler of SIGTERM is still the one whose calls are told by `noticed`.
    """

    def __init__(self, is_handled_here: Callable[[], bool]) -> None:
        self._is_handled_here = is_handled_here
        self._lock = threading.Lock()
        self._is_active = True
        self.noticed = False
        #: Whether the signal was sent again, so that the handler may be called twice for one.
        self.sent_again = False
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        if before != -1:  # that of an event loop, which it wakes
            signal.set_wakeup_fd(before)
            self._close()
            return
        try:
            threading.Thread(target=self._run, name="dreamlake-sigterm", daemon=True).start()
        except RuntimeError:  # the interpreter is ending
            self.after_fork_in_child()

    def pause(self) -> None:
        """Send nothing from now on; called by the main thread before it takes the handler away."""
        with self._lock:
            self._is_active = False
        # What was sent before is delivered when a system call returns: to the handler, which is still there.
        signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def resume(self) -> None:
        """Watch again."""
        with self._lock:
            self._is_active = True

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
        while True:
            if signal.SIGTERM not in os.read(self._reading, 512):
                continue
            pause = FIRST_PAUSE
            time.sleep(pause)
            while self._send_again(main):
                pause = min(2 * pause, LONGEST_PAUSE)
                time.sleep(pause)

    def _send_again(self, main: int) -> bool:
        """Send the signal to the main thread if it has not noticed it; whether that was done."""
        with self._lock:
            if self.noticed or not self._is_active or not self._is_handled_here():
                return False
            self.sent_again = True
            signal.pthread_kill(main, signal.SIGTERM)
            return True
