"""A callback for the Trainer of Hugging Face Transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError('the callback needs Transformers: pip install "dreamlake[transformers]"') from error

from dreamlake.integrations.recording import Recorder

if TYPE_CHECKING:
    from dreamlake.session import Session

__all__ = ["DreamlakeCallback"]


class DreamlakeCallback(TrainerCallback):  # type: ignore[misc]
    """Writes what the Trainer logs to a track, one point a step: ``Trainer(callbacks=[DreamlakeCallback(…)])``.

    The training arguments and the model's configuration (below ``model.``) become parameters of the session,
    checkpoints records of its log. A run that is resumed from a checkpoint goes on in the same session; steps that are
    trained again are appended again (``track.latest(by="step")`` leaves the earlier ones out). Of several processes
    the first of all hosts writes.

    The Trainer hands plain numbers over every ``logging_steps``; nothing here waits for a device.

    Parameters
    ----------
    name, workspace
        The session, which is opened when training begins and closed when it ends. The Trainer tells callbacks of no
        exception: after one, the session is closed at the end of the program, with the status failed. Use ``session=``
        in a ``with`` block where the program goes on.
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
        self._recorder = Recorder(name, workspace, session, options)
        self._track = track
        self._is_training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Open the session and set parameters; called by the Trainer."""
        self._is_training = True
        if not state.is_world_process_zero:
            return
        config = getattr(model, "config", None)
        about = {"model": config.to_dict()} if config is not None and hasattr(config, "to_dict") else {}
        self._recorder.parameters(args.to_sanitized_dict() | about)
        self._recorder.session.log("training starts", metadata={"step": state.global_step})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append numbers to the track; called by the Trainer."""
        if state.is_world_process_zero and logs:
            self._recorder.step(self._track, "step", state.global_step, logs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note a checkpoint in the session's log; called by the Trainer."""
        if state.is_world_process_zero:
            path = f"{args.output_dir}/checkpoint-{state.global_step}"
            self._recorder.session.log("checkpoint", metadata={"path": path, "step": state.global_step})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close a session of its own that an evaluation after training has opened; called by the Trainer."""
        if not self._is_training:
            self._recorder.finish("finished")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close a session of its own; called by the Trainer."""
        self._is_training = False
        self._recorder.finish("finished")
