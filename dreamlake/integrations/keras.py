"""A callback for Keras, whatever its backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from keras.callbacks import Callback
except ImportError as error:
    raise ImportError('the callback needs Keras: pip install "dreamlake[keras]"') from error

from dreamlake.integrations.recording import Recorder

if TYPE_CHECKING:
    from dreamlake.session import Session

__all__ = ["DreamlakeCallback"]


class DreamlakeCallback(Callback):  # type: ignore[misc]
    """Writes each epoch, and batches if asked, to tracks: ``model.fit(…, callbacks=[DreamlakeCallback(…)])``.

    The settings of ``fit`` and the optimizer become parameters of the session. A run that is resumed, with
    ``initial_epoch`` or `keras.callbacks.BackupAndRestore`, goes on in the same session; epochs that are trained again
    are appended again (``track.latest(by="epoch")`` leaves the earlier ones out).

    Parameters
    ----------
    name, workspace
        The session, which is opened when training begins and closed when it ends. Keras tells callbacks of no
        exception: after one, the session is closed at the end of the program, with the status failed. Use ``session=``
        in a ``with`` block where the program goes on.
    session
        Or a session that is open. It stays so.
    track
        The track with a point an epoch: ``epoch`` and what Keras logs, ``val_…`` included.
    every
        Batches from one point of the track ``batches`` to the next: ``step``, ``epoch`` and what Keras logs, averages
        since the epoch began. None for no such points. Keras waits for the numbers of every batch where any callback
        asks for batches, on the thread that trains: on a GPU that keeps it from running ahead.
    batches
        The track for these.
    options
        What else `Session` takes: ``local_path``, ``remote``, ``tags`` …

    Raises
    ------
    ValueError, TypeError
        Neither names nor a session, or both; `every` below 1; and as from `Session`.
    """

    def __init__(
        self,
        name: str | None = None,
        workspace: str | None = None,
        *,
        session: Session | None = None,
        track: str = "epochs",
        every: int | None = None,
        batches: str = "batches",
        **options: Any,
    ) -> None:
        super().__init__()
        self._recorder = Recorder(name, workspace, session, options)
        self._track = track
        self._batches = batches
        self._every = every
        self._epoch = 0
        self._step = 0
        if every is not None:
            if isinstance(every, bool) or not isinstance(every, int) or every < 1:
                raise ValueError(f"every= is a number of batches, 1 or more, or None; not {every!r}")
            # Of the instance: Keras looks whether a callback has this method, and waits for each batch if one has.
            self.on_train_batch_end = self._on_train_batch_end

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the session and set parameters; called by Keras."""
        optimizer = getattr(self.model, "optimizer", None)
        about = {"optimizer": optimizer.get_config()} if optimizer is not None else {}
        self._recorder.parameters({**(self.params or {}), **about})
        self._recorder.session.log("training starts")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count from this epoch on, which may not be the first; called by Keras."""
        self._epoch = epoch
        steps = (self.params or {}).get("steps")
        if steps:
            self._step = epoch * steps

    def _on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        if self._step % self._every == 0:  # type: ignore[operator]
            self._recorder.step(self._batches, "step", self._step, {"epoch": self._epoch, **(logs or {})})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Append the numbers of an epoch; called by Keras."""
        self._recorder.step(self._track, "epoch", epoch, logs or {})

    def on_train_end(self, logs: Any = None) -> None:
        """Close a session of its own; called by Keras."""
        self._recorder.finish("finished")
