"""A logger for PyTorch Lightning."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

try:
    from lightning.pytorch.loggers.logger import Logger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    try:
        from pytorch_lightning.loggers.logger import Logger
        from pytorch_lightning.utilities import rank_zero_only
    except ImportError as error:
        raise ImportError('the logger needs Lightning: pip install "dreamlake[lightning]"') from error

from dreamlake.integrations.recording import Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dreamlake.session import Session

__all__ = ["DreamlakeLogger"]


class DreamlakeLogger(Logger):  # type: ignore[misc]
    """Writes what a module logs to a track, one point a step: ``Trainer(logger=DreamlakeLogger("run-1", "mnist"))``.

    Hyperparameters become parameters of the session, saved checkpoints records of its log. A run that is resumed from
    a checkpoint goes on in the same session; steps that are trained again are appended again
    (``track.latest(by="step")`` leaves the earlier ones out). Of several processes rank 0 writes.

    Lightning hands numbers over, each a tensor's `item()` that it took itself every ``log_every_n_steps``; nothing
    here waits for a device. A tensor that is given to ``logger.experiment.track(…).append`` does.

    Parameters
    ----------
    name, workspace
        The session, which is opened with the first thing to write, and closed after each ``fit``, ``validate`` or
        ``test`` with the status that this ended with: finished, failed, interrupted.
    session
        Or a session that is open. It stays so.
    track
        The track for all that is logged.
    options
        What else `Session` takes: ``local_path``, ``remote``, ``tags`` …

    Raises
    ------
    ValueError, TypeError
        Neither names nor a session, or both; and as from `Session`.
    """

    def __init__(
        self,
        name: str | None = None,
        workspace: str | None = None,
        *,
        session: Session | None = None,
        track: str = "metrics",
        **options: Any,
    ) -> None:
        super().__init__()
        self._recorder = Recorder(name, workspace, session, options)
        self._track = track
        self._saved: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The workspace; checkpoints are kept below ``<default_root_dir>/<workspace>/<session>``."""
        return self._recorder.workspace

    @property
    def version(self) -> str:
        """The session's name."""
        return self._recorder.name

    @property
    def experiment(self) -> Session:
        """The session, open; on other ranks than 0 something on which every call does nothing."""
        return self._recorder.session if rank_zero_only.rank == 0 else _Nothing()  # type: ignore[return-value]

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append numbers to the track; called by Lightning."""
        self._recorder.step(self._track, "step", 0 if step is None else int(step), metrics)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Set parameters of the session; called by Lightning for ``save_hyperparameters``."""
        self._recorder.parameters(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Note new checkpoints in the session's log; called by Lightning."""
        for path in {checkpoint_callback.best_model_path, checkpoint_callback.last_model_path} - {""}:
            score = getattr(checkpoint_callback, "best_k_models", {}).get(path)
            step = getattr(checkpoint_callback, "_last_global_step_saved", None)
            if self._saved.get(path) != step:
                self._saved[path] = step
                told = {"path": path, "step": step} | ({} if score is None else {"score": float(score)})
                self._recorder.session.log("checkpoint", metadata=told)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def finalize(self, status: str) -> None:
        """Close a session of its own; called by Lightning at the end, and when training fails."""
        self._recorder.finish("finished" if status == "success" else None)


class _Nothing:
    """In the place of a session and its tracks on ranks that do not write; Lightning's own ends a chain of calls."""

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self
