"""MLflow: a run of a tracking store, whichever kind its own client can read; a metric is a track."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from dreamlake.integrations.intake import Intake
from dreamlake.integrations.names import track_name
from dreamlake.integrations.run import ImportRefused, Run

KIND = "mlflow"
STATUS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}
#: Experiments and runs that are asked for at once.
PAGE = 1000
#: The tag that holds a run's description, and what tags begin with that MLflow itself sets.
NOTE, OWN = "mlflow.note.content", "mlflow."
#: MLflow 3 opens a store of files only where this says so.
ALLOW_FILES = "MLFLOW_ALLOW_FILE_STORE"


def runs(source: str) -> Iterator[Run]:
    """The runs of a store, by experiment: a folder (`mlruns`), an SQLite file, or any tracking URI.

    Raises
    ------
    ImportRefused
        It is no store, or has no run.
    ImportError
        MLflow is not installed.
    """
    uri = tracking_uri(source)
    with _asking():
        client = _client(uri)
        found = False
        for experiment in _pages(client.search_experiments, max_results=PAGE):
            for run in _pages(client.search_runs, [experiment.experiment_id], max_results=PAGE):
                found = True
                name = run.info.run_name or run.data.tags.get("mlflow.runName") or run.info.run_id
                yield Run(
                    kind=KIND,
                    ids=(run.info.run_id,),
                    name=name,
                    other_name=f"{name}-{run.info.run_id[:8]}",
                    workspace=experiment.name,
                    source=_shown(uri),
                    pour=partial(_pour, client=client, run_id=run.info.run_id, experiment=experiment.name),
                    started=run.info.start_time / 1000 if run.info.start_time else None,
                )
        if not found:
            raise ImportRefused(f"{_shown(source)} is a store of MLflow that has no run")


def tracking_uri(source: str) -> str:
    """The tracking URI of what a person names.

    Raises
    ------
    ImportRefused
        It is no store. One that is not there would be made by MLflow.
    """
    scheme, separator, rest = source.partition(":")
    if separator and len(scheme) > 1 and not os.path.exists(source):
        if scheme.startswith("sqlite"):
            path = rest[3:].partition("?")[0] if rest.startswith("///") else rest
            if not os.path.isfile(path):
                raise ImportRefused(f"{source}: there is no file {path}")
            return source
        if scheme == "file":
            from urllib.parse import unquote

            source = unquote(rest.removeprefix("//"))
        else:
            return source
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(15) != b"SQLite format 3":
                raise ImportRefused(f"{path} is no SQLite file; name that of an MLflow store, its folder or its URI")
        return f"sqlite:///{path}"
    if _is_file_store(path):
        return _file_uri(path)
    for below in ("mlflow.db", "mlruns"):
        inner = os.path.join(path, below)
        if os.path.isfile(inner) or _is_file_store(inner):
            return tracking_uri(inner)
    raise ImportRefused(
        f"{path} is no store of MLflow: neither <experiment>/meta.yaml nor mlruns nor mlflow.db is in it"
        if os.path.exists(path)
        else f"{path} does not exist"
    )


def _is_file_store(path: str) -> bool:
    if not os.path.isdir(path):
        return False
    return any(os.path.isfile(os.path.join(path, entry, "meta.yaml")) for entry in os.listdir(path))


def _file_uri(path: str) -> str:
    from pathlib import Path

    return Path(path).as_uri()


def _client(uri: str) -> Any:
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise ImportError(f"this needs MLflow: pip install 'dreamlake[mlflow]' ({error})") from error
    logging.getLogger("alembic").setLevel(logging.WARNING)  # tells of each look at a database
    return MlflowClient(tracking_uri=uri)


@contextmanager
def _asking() -> Iterator[None]:
    """While MLflow is asked: stores of files are allowed, and its errors are some that the caller knows."""
    before = os.environ.get(ALLOW_FILES)
    os.environ[ALLOW_FILES] = "true"
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "MlflowException":
            raise OSError(f"MLflow: {error}") from error
        raise
    finally:
        if before is None:
            os.environ.pop(ALLOW_FILES, None)
        else:
            os.environ[ALLOW_FILES] = before


def _pages(ask: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
    token = None
    while True:
        page = ask(*arguments, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


def _shown(source: str) -> str:
    """The source without what a URI says of user and password."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


# ------------------------------------------------------------------------------------------------ a run


def _pour(intake: Intake, client: Any, run_id: str, experiment: str) -> None:
    with _asking():
        run = client.get_run(run_id)
        intake.part(run_id)
        for key in sorted(run.data.metrics):
            points = [
                (metric.timestamp / 1000, metric.step, metric.value)
                for metric in client.get_metric_history(run_id, key)
            ]
            intake.add_missing(track_name(key), points, tag=key)
            intake.flush()
    intake.parameters({key: typed(value) for key, value in run.data.params.items()})
    tags = dict(run.data.tags)
    intake.description = tags.get(NOTE)
    intake.tags = [f"{key}={value}" for key, value in sorted(tags.items()) if not key.startswith(OWN)]
    intake.status = STATUS.get(run.info.status, "running")
    intake.about(
        runId=run_id,
        runName=run.info.run_name,
        experiment=experiment,
        experimentId=run.info.experiment_id,
        user=run.info.user_id or tags.get("mlflow.user"),
        endedAt=run.info.end_time / 1000 if run.info.end_time else None,
        artifacts=_shown(run.info.artifact_uri or ""),
        tags=tags,
    )
    inputs = getattr(run, "inputs", None)
    datasets = getattr(inputs, "dataset_inputs", None) or []
    if datasets:
        intake.leave_out("data sets", len(datasets))


def typed(text: str) -> Any:
    """The number or truth value that Python writes as exactly this text, else the text: MLflow keeps only text.

    So ``str`` of it is always what MLflow has: ``1.10`` and ``007`` stay text.
    """
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text:
            return value
    return text
