"""The public surface: what there is, with which signatures, and what is imported for it and when."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from support import run_python

import dreamlake
from dreamlake import Lake, Session, dreamlake_session, errors
from dreamlake.files import Files, FilesView
from dreamlake.lake import SessionView, TracksView
from dreamlake.parameters import Parameters, ParametersView
from dreamlake.track import Track
from dreamlake.tracks import Tracks
from dreamlake.view import TrackView


def shape(function: Any) -> str:
    """The parameters of a function with their defaults, without annotations."""
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(parameters))


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if name[0] != "_"}


def test_the_names_of_the_package() -> None:
    assert dreamlake.__all__ == ["Lake", "Session", "__version__", "dreamlake_session", "errors"]
    assert dir(dreamlake) == sorted(dreamlake.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", dreamlake.__version__)
    for name in dreamlake.__all__:
        assert getattr(dreamlake, name) is not None
    with pytest.raises(AttributeError, match="module 'dreamlake' has no attribute 'nothing'"):
        _ = dreamlake.nothing
    assert dreamlake.Session is Session
    assert set(errors.__all__) <= set(dir(errors))


SIGNATURES = {
    Session: (
        "(name, workspace, local_path='.dreamlake', *, remote=None, storage_options=None, description=None, tags=None, "
        "folder=None, metadata=None, resume='allow', flush_interval=1.0, sync_interval=10.0, segment_points=10000, "
        "max_pending_bytes=268435456, fsync=False, single_writer=False)"
    ),
    Session.track: "(name, description=None, tags=None, metadata=None)",
    Session.log: "(message, level='info', metadata=None)",
    Session.open: "()",
    Session.close: "(timeout=None)",
    Session.flush: "()",
    Session.parameters: "()",
    Session.files: "()",
    Session.logs: "(level=None, *, errors='raise')",
    Session.align: ("(*tracks, how='exact', tolerance=None, start_time=None, end_time=None, errors='raise')"),
    Session.plot: "(tracks, y=None, x=None, **options)",
    Files.upload: (
        "(file, /, path='/', *, description=None, tags=None, metadata=None, filename=None, content_type=None)"
    ),
    Files.list: "(path=None, tags=None, *, deleted=False)",
    Files.get: "(file, /)",
    Files.open: "(file, /)",
    Files.download: "(file, /, to=None)",
    Files.delete: "(file, /)",
    Track.append: "(**fields)",
    Track.append_batch: "(points)",
    Track.flush: "()",
    Track.read: "(start_index=0, limit=1000, *, errors='raise')",
    Track.read_by_time: "(start_time=None, end_time=None, limit=1000, reverse=False, *, errors='raise')",
    Track.scan: "(start_index=0, limit=None, *, errors='raise')",
    Track.to_polars: "(start_index=0, limit=None, *, errors='raise')",
    Track.to_pandas: "(start_index=0, limit=None, *, dtype_backend=None, errors='raise')",
    Track.to_arrow: "(start_index=0, limit=None, *, errors='raise')",
    Track.latest: "(by='step', *, errors='raise')",
    Track.downsample: "(n, fields=None, x='_index', *, start_index=0, limit=None, errors='raise')",
    Track.plot: "(y=None, x=None, **options)",
    Track.stats: "()",
    Track.compact: "()",
    Track.files: "()",
    Tracks.list: "()",
    Tracks.flush: "()",
    Parameters.set: "(values=None, /, **more)",
    Parameters.get: "()",
    Lake: "(url, storage_options=None)",
    Lake.workspaces: "()",
    Lake.sessions: "(workspace=None)",
    Lake.session: "(name, workspace)",
    Lake.scan: "(track, workspace=None, sessions=None, *, parameters=False, errors='raise')",
    Lake.plot: "(track, y=None, x=None, *, workspace=None, sessions=None, **options)",
    dreamlake_session: "(name, workspace, **options)",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signatures_stay(function: Any) -> None:
    assert shape(function) == SIGNATURES[function]


def test_writing_and_reading_sides_have_one_reading_api() -> None:
    assert issubclass(Track, TrackView)
    assert issubclass(Parameters, ParametersView)
    assert issubclass(Files, FilesView)
    assert {"append", "append_batch", "compact", "flush"} == public(Track) - public(TrackView)
    assert {"upload", "delete"} == public(Files) - public(FilesView)
    assert {"list"} <= public(TracksView) <= public(Tracks)
    assert {"info", "track", "tracks", "parameters", "files", "logs", "name", "workspace"} <= public(SessionView) | {
        "name",
        "workspace",
    }
    for function in ("align", "plot"):
        assert shape(getattr(SessionView, function)) == shape(getattr(Session, function))
    for dunder in ("__iter__", "__len__", "__contains__"):
        assert hasattr(Tracks, dunder)
        assert hasattr(TracksView, dunder)
    for dunder in ("__enter__", "__exit__"):
        assert hasattr(Session, dunder)


EVERY = [Session, Track, TrackView, Tracks, Parameters, ParametersView, Files, FilesView, Lake, SessionView]


@pytest.mark.parametrize("kind", EVERY)
def test_everything_public_says_what_it_does(kind: type) -> None:
    assert kind.__doc__
    for name in public(kind):
        value = inspect.getattr_static(kind, name)
        assert inspect.getdoc(value.fget if isinstance(value, property) else value), f"{kind.__name__}.{name}"


def test_results_are_plain_dicts_with_fixed_keys(tmp_path: Path) -> None:
    from dreamlake import types

    with Session("s", "w", tmp_path, flush_interval=3600.0) as session:
        track = session.track("t")
        result = track.append_batch([{"a": 1}])
        assert set(result) == set(types.AppendResult.__annotations__)
        assert set(track.read()) == set(types.ReadResult.__annotations__)
        assert set(track.read()["data"][0]) == set(types.Point.__annotations__)
        assert set(track.stats()) == set(types.TrackStats.__annotations__)
        record = session.files().upload(b"1", filename="x")
        assert set(record) == set(types.FileRecord.__annotations__)
        (info,) = Lake(tmp_path).sessions()
        assert set(types.SessionInfo.__annotations__) <= set(info)
        assert {type(value) for value in (result, track.read(), track.stats(), info, record)} == {dict}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """
    import sys
    import dreamlake
    heavy = ("pyarrow", "polars", "msgspec", "fsspec", "s3fs", "numpy", "pandas")
    print([name for name in heavy if name in sys.modules])
    print([name for name in sys.modules if name.startswith("dreamlake.")])
    dreamlake.errors.DreamlakeError
    dreamlake.Session
    print([name for name in heavy if name in sys.modules])
    """
    assert run_python(code).stdout == "[]\n[]\n[]\n"


def test_appending_and_flushing_never_import_polars_or_pandas(tmp_path: Path) -> None:
    """Every shape of point and batch of plain values, rolls, late fields, logs, parameters, the close."""
    code = """
    import sys
    from datetime import datetime, UTC
    from dreamlake import Session
    with Session("s", "w", sys.argv[1], segment_points=50, flush_interval=3600.0, metadata={"a": 1}) as session:
        track = session.track("t", tags=["x"])
        kinds = [1, 0.5, True, None, "s", b"b", [1.0], {"k": [1]}, datetime.now(UTC), 2**70, float("nan"), [], {}]
        kinds.append([1, "a"])
        for step in range(120):
            track.append(x=kinds[step % len(kinds)], _ts=float(step))
            session.track("auto").append(step=step, loss=0.5)
        track.flush()
        track.append(late=1, _ts=3.0).append(late={"a": None}, _ts=70.0)
        track.append_batch([{"x": kind} for kind in kinds] * 9)
        track.append_batch({"x": kinds * 9, "n": list(range(9 * len(kinds)))})
        session.log("hello", metadata={"a": 1})
        session.parameters().set(a={"b": 1})
        session.flush()
        print([name for name in ("polars", "pandas", "fsspec", "s3fs") if name in sys.modules])
    """
    out = run_python(code, tmp_path).stdout
    assert out == "[]\n"
