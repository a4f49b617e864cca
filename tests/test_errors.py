"""The error tree: one root, the built-ins beside it, messages that read as sentences, pickling."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from dreamlake import errors

BUILTINS = {
    errors.SessionClosedError: RuntimeError,
    errors.SessionExistsError: FileExistsError,
    errors.SessionNotFoundError: FileNotFoundError,
    errors.TrackNotFoundError: KeyError,
    errors.StoredFileNotFoundError: FileNotFoundError,
    errors.PointsDroppedError: OSError,
    errors.PointsNotHereError: OSError,
    errors.CorruptTrackError: ValueError,
    errors.CorruptFileError: ValueError,
    errors.LockTimeoutError: TimeoutError,
    errors.LocksUnsupportedError: OSError,
    errors.RemoteConflictError: OSError,
}

EXAMPLES = [
    errors.SessionClosedError("the session is closed"),
    errors.SessionExistsError("the session exists"),
    errors.SessionNotFoundError("no such session"),
    errors.TrackNotFoundError("no track 'loss' in this session"),
    errors.StoredFileNotFoundError("no file '/x' in this session"),
    errors.PointsDroppedError("12 points were dropped", 12),
    errors.PointsNotHereError("lake/w/s/tracks/t", 0, 7, ("s3://bucket/lake",), "s3://bucket/lake/w/s/tracks/t/0-7"),
    errors.CorruptTrackError("a/b.parquet", "footer", 0, 10, "bad checksum"),
    errors.CorruptFileError("files/f-0/x", "its bytes", detail="its SHA-256 is another"),
    errors.LockTimeoutError("locked for 5 s"),
    errors.LocksUnsupportedError("no locks here"),
    errors.RemoteConflictError("written elsewhere"),
]


def test_tree_is_complete() -> None:
    public = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)}
    assert public == {*BUILTINS, errors.DreamlakeError}
    assert {cls.__name__ for cls in public} == set(errors.__all__)
    assert [type(example) for example in EXAMPLES] == list(BUILTINS)


@pytest.mark.parametrize(("cls", "builtin"), BUILTINS.items())
def test_each_is_the_root_and_the_builtin(cls: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(cls, errors.DreamlakeError)
    assert issubclass(cls, builtin)


def test_tree_in_the_docstring_names_every_error() -> None:
    drawing = errors.__doc__ or ""
    for cls, builtin in BUILTINS.items():
        line = next(line for line in drawing.splitlines() if f" {cls.__name__} " in line)
        assert f"({builtin.__name__})" in line


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_pickle_and_copy_keep_message_and_attributes(error: Exception) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_track_not_found_reads_as_a_sentence() -> None:
    assert str(errors.TrackNotFoundError("no track 'loss' here")) == "no track 'loss' here"


def test_points_dropped_says_how_many() -> None:
    error = errors.PointsDroppedError("12 points were dropped", 12)
    assert error.dropped == 12
    assert error.log_records == 0
    assert str(error) == "12 points were dropped"
    assert errors.PointsDroppedError("3 log records were dropped", 0, 3).log_records == 3


@pytest.mark.parametrize(
    ("start", "stop", "said"),
    [(None, None, "(footer)"), (3, None, "(footer; indices 3 and up)"), (3, 9, "(footer; indices 3 to 9, exclusive)")],
)
def test_corrupt_track_names_file_place_and_range(start: int | None, stop: int | None, said: str) -> None:
    error = errors.CorruptTrackError("x/y.parquet", "footer", start, stop, "bad")
    assert str(error) == f"x/y.parquet is damaged {said}: bad"
    assert (error.path, error.place, error.start, error.stop) == ("x/y.parquet", "footer", start, stop)
