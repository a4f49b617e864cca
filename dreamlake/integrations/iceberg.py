"""A track of many runs as an Iceberg table, for engines that read such: its segments are registered, not copied."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

try:
    import pyiceberg.table
    from pyiceberg.catalog import Catalog
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.exceptions import (
        CommitFailedException,
        NamespaceAlreadyExistsError,
        NoSuchTableError,
        TableAlreadyExistsError,
        ValidationException,
    )
except ImportError as error:
    raise ImportError('Iceberg tables need PyIceberg: pip install "dreamlake[iceberg]"') from error

import pyarrow as pa
import pyarrow.parquet as pq

from dreamlake.engine.catalog import session_info
from dreamlake.engine.compaction import MOST_BYTES
from dreamlake.engine.process import reading_width, side_by_side
from dreamlake.engine.reader import TrackReader
from dreamlake.engine.roll import FACTOR, USUAL_POINTS
from dreamlake.errors import TrackNotFoundError
from dreamlake.format import layout
from dreamlake.format.layout import SegmentName
from dreamlake.format.logical import unify_schemas
from dreamlake.format.point import encode_lines
from dreamlake.format.schema import NONE
from dreamlake.integrations.icebergfiles import (
    BASE,
    BY_RUN,
    JSON_DOC,
    NONE_KIND,
    converted,
    data_file,
    iceberg_type,
    kinds_in,
    kinds_of,
    misfits,
)
from dreamlake.lake import Lake
from dreamlake.storage import scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from pyiceberg.manifest import DataFile

    from dreamlake.engine.segments import SegmentFiles
    from dreamlake.format.logical import TrackSchema
    from dreamlake.format.schema import Batch
    from dreamlake.format.segment import Footer
    from dreamlake.integrations.icebergfiles import Kinds

    Run = tuple[str, str]

__all__ = ["Registered", "register", "sqlite_catalog"]

#: Times that a call begins anew, when another one changed the table or segments vanished meanwhile.
ATTEMPTS = 20
#: Schemes of lakes whose files an engine can find by their URL.
SCHEMES = frozenset({"s3", "s3a", "gs", "abfs", "abfss"})
#: Where copies lie below a table, apart from what other writers of the table would write.
COPIES = "copies"
NAME_MAPPING = "schema.name-mapping.default"
TRACK, ROOT = "dreamlake.track", "dreamlake.lake"
PROPERTIES = {
    # The files are the lake's: no engine may delete them, whatever becomes of the table.
    "gc.enabled": "false",
    # A commit that another one came before is not to be repeated as it was planned: both may add the same files.
    "commit.retry.num-retries": "0",
    # Engines may look for the least and greatest value of any column, not of the first 100.
    "write.metadata.metrics.default": "truncate(16)",
}


@dataclass(frozen=True)
class Registered:
    """What `register` did.

    Parameters
    ----------
    table
        The Iceberg table.
    added, removed
        Data files that this call has put into the table and taken out of it.
    copied
        Those of `added` that are copies, in the table's own folder.
    files, points
        What the table now holds of the runs that were looked at.
    left_out
        Points of these runs that are in no file of the table yet: the newest, in data.jsonl, and of runs in progress
        those in segments that are still to be merged.
    """

    table: pyiceberg.table.Table
    added: int
    removed: int
    copied: int
    files: int
    points: int
    left_out: int


def sqlite_catalog(
    folder: str | os.PathLike[str] = "iceberg",
    *,
    warehouse: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> SqlCatalog:
    """Return the catalogue in the SQLite file ``<folder>/catalog.db``, which is made where there is none.

    Parameters
    ----------
    folder
        A folder of this machine. It is no place below a lake's workspaces.
    warehouse
        The URL or folder below which tables keep their metadata; `folder` by default.
    storage_options
        How files on S3 are reached, as `Lake` takes it: ``endpoint_url``, ``key``, ``secret``, ``token``, and
        ``region_name`` in ``client_kwargs``. They are kept in memory only. Without, PyArrow looks in the environment.
    """
    from sqlalchemy.exc import OperationalError

    folder = os.path.abspath(folder)
    os.makedirs(folder, exist_ok=True)
    properties = {
        "uri": f"sqlite:///{os.path.join(folder, 'catalog.db')}",
        "warehouse": warehouse
        if warehouse and scheme_of(warehouse)
        else f"file://{os.path.abspath(warehouse or folder)}",
        **_s3_properties(storage_options or {}),
    }
    for attempt in range(ATTEMPTS):
        try:
            return SqlCatalog("dreamlake", **properties)
        except OperationalError:  # another process makes the same tables in it
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.01, 0.1))
    raise AssertionError


def register(
    lake: Lake | str | os.PathLike[str],
    track: str,
    *,
    workspace: str | None = None,
    sessions: Iterable[str] | str | None = None,
    catalog: Catalog | str | os.PathLike[str] = "iceberg",
    table: str | None = None,
    copy: bool = False,
) -> Registered:
    """Make an Iceberg table hold the segments of one track of many runs, where they lie; make it, or add what is new.

    The table has the columns ``_workspace``, ``_session`` (by which it is partitioned), ``_index``, ``_ts``, the fields
    of all runs, and ``_none``, the names of a row's fields that are None, once any was. Nothing is written into the
    lake. What a compaction, a late field or a deletion has taken from the lake since is taken out of the table; all of
    it is one snapshot of the table, or none where nothing is new.

    Of a run that has ended all segments are registered; of one in progress those that are not merged by themselves any
    more, of 1,000,000 points, and those that the table has already. Points in data.jsonl are not in the table:
    ``left_out`` counts them.

    Parameters
    ----------
    lake
        The lake, or its folder or URL; on S3, GCS or Azure, where engines find files by their URL.
    track
        The name of the track.
    workspace, sessions
        As for `Lake.scan`. Other runs that the table holds stay in it as they are.
    catalog
        A catalogue of PyIceberg (REST, Glue, SQL …), or the folder of a `sqlite_catalog`.
    table
        ``"namespace.name"`` of the table; ``dreamlake.<track>`` by default, with ``_`` for what is no letter or digit.
    copy
        Whether what cannot be registered as it is gets copied into the table's own folder: points that are in no
        segment yet, of runs that have ended, and segments with columns that Iceberg has no type for (mixed types, no
        value at all) or another type than the table. A later call without it takes the copies out again.

    Raises
    ------
    SessionNotFoundError, TrackNotFoundError
        As from `Lake.scan`.
    CorruptTrackError
        The footer of a segment is damaged.
    ValueError
        A segment does not fit into the table, and `copy` is not set, or does not help. The table is as it was. Or it
        is the table of another track or lake, or the lake is where no engine looks.
    CommitFailedException
        Of PyIceberg: others changed the table at each of many attempts.
    """
    layout.check_name("track", track)
    lake = lake if isinstance(lake, Lake) else Lake(lake)
    own = None
    if not isinstance(catalog, Catalog):
        options = getattr(lake._store, "_options", None)
        catalog = own = sqlite_catalog(catalog, storage_options=options)
    try:
        work = _Registration(lake, track, workspace, sessions, copy)
        target = _table(catalog, table, track, work.root)
        for attempt in range(ATTEMPTS):
            try:
                return work.run(target)
            except (CommitFailedException, ValidationException, FileNotFoundError):
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))
                target.refresh()
        raise AssertionError
    finally:
        if own is not None:
            own.engine.dispose()


@dataclass
class _Part:
    """A range of points of one run: a segment, or (segment None) what is in no segment yet."""

    run: Run
    segment: SegmentName | None
    start: int
    stop: int
    #: Where it is, and where a copy of it is.
    path: str
    copy_path: str
    files: SegmentFiles
    #: Of what is in no segment: the points, unless the table has them.
    hot: Batch | None = None
    #: Of a segment that the table does not have.
    footer: Footer | None = None

    def schema(self) -> TrackSchema:
        if self.hot is not None:
            return self.hot.schema
        assert self.footer is not None
        return self.footer.info.schema

    def points(self) -> pa.Table:
        """Its points with all columns, as they are stored."""
        if self.hot is not None:
            found = pa.Table.from_batches([self.hot.data])
        else:
            assert self.segment is not None
            found = self.files.read(self.segment)[0]
        return found.add_column(0, "_index", pa.array(range(self.start, self.stop), pa.int64()))


class _Registration:
    """What one call of `register` wants the table to hold."""

    def __init__(
        self, lake: Lake, track: str, workspace: str | None, sessions: Iterable[str] | str | None, copy: bool
    ) -> None:
        self.store = lake._store
        self.lake = lake
        self.track = track
        self.workspace = workspace
        self.sessions = sessions if sessions is None or isinstance(sessions, str) else set(sessions)
        self.copy = copy
        self.root = _location(self.store.describe())
        self.width = reading_width(self.store)

    def run(self, table: pyiceberg.table.Table) -> Registered:
        """Bring the table up to date, by one commit at most; FileNotFoundError where a segment vanished meanwhile."""
        have = self._registered(table)
        parts, total = self._parts(f"{_location(table.location())}/{COPIES}", have.keys())
        new = [part for part in parts if not have.keys() & self._paths(part)]
        for part, footer in zip(new, side_by_side(_footer, new, self.width), strict=True):
            part.footer = footer
        lost = {part.path for part in new if part.footer is not None and part.footer.info.lost}
        total -= sum(part.stop - part.start for part in parts if part.path in lost)
        parts, new = ([part for part in some if part.path not in lost] for some in (parts, new))
        wanted = {path for part in parts for path in self._paths(part)}
        gone = [file for path, file in have.items() if path not in wanted]
        copied = self._commit(table, new, gone) if new or gone else 0
        points = sum(part.stop - part.start for part in parts)
        return Registered(table, len(new), len(gone), copied, len(parts), points, total - points)

    # ---------------------------------------------------------------------------------------------- what is there

    def _parts(self, copies: str, have: AbstractSet[str]) -> tuple[list[_Part], int]:
        """What the table is to hold, and how many points there are in all."""
        runs = self.lake._chosen(self.workspace, self.sessions)
        looked = side_by_side(lambda run: self._look(run, copies, have), runs, self.width)
        found = [there for there in looked if there is not None]
        if not found:
            raise TrackNotFoundError(
                f"none of the {len(runs)} sessions looked at in {self.lake!r} has a track {self.track!r}"
            )
        return [part for parts, _ in found for part in parts], sum(total for _, total in found)

    def _look(self, run: Run, copies: str, have: AbstractSet[str]) -> tuple[list[_Part], int] | None:
        """The parts of a run, and its points; None where it does not have the track."""
        folder = f"{layout.session_dir(*run)}/{layout.track_dir(self.track)}"
        # Before the track: what was written until a run said that it has ended is then there.
        info = session_info(self.store, *run)
        snapshot = TrackReader(self.store, folder, self.track).snapshot()
        if info is None or not snapshot.exists:
            return None
        runs_on = info["status"] == "running"
        copies = f"{copies}/{layout.session_dir(*run)}"
        parts = [
            part
            for name, path in zip(snapshot.live, map(_location, snapshot.segment_paths()), strict=True)
            for part in [_Part(run, name, name.start, name.stop, path, f"{copies}/{name.filename}", snapshot.files)]
            # What the table has of a run that goes on again stays in it, for as long as it counts.
            if not runs_on or have & self._paths(part) or _is_settled(snapshot.files, name)
        ]
        hot = snapshot.hot
        if self.copy and hot and not runs_on:
            digest = hashlib.sha256(encode_lines(zip(hot.indices, hot.points, strict=True))).hexdigest()[:16]
            path = f"{copies}/{hot.indices[0]:012d}-{hot.stop:012d}.{digest}.parquet"
            batch = None if path in have else hot.batch
            parts.append(_Part(run, None, hot.indices[0], hot.stop, path, path, snapshot.files, batch))
        return parts, snapshot.total

    def _paths(self, part: _Part) -> set[str]:
        """The data files, any of which is this part."""
        return {part.path, part.copy_path} if self.copy else {part.path}

    def _registered(self, table: pyiceberg.table.Table) -> dict[str, DataFile]:
        """The data files of the runs in question that came from this lake, by their paths."""
        current = table.current_snapshot()
        if current is None:
            return {}
        chosen = {self.sessions} if isinstance(self.sessions, str) else self.sessions
        own = f"{self.root}/", f"{_location(table.location())}/{COPIES}/"
        files = (
            entry.data_file
            for manifest in current.manifests(table.io)
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        )
        return {
            file.file_path: file
            for file in files
            if file.file_path.startswith(own)
            and (self.workspace is None or file.partition[0] == self.workspace)
            and (chosen is None or file.partition[1] in chosen)
        }

    # ---------------------------------------------------------------------------------------------- the table

    def _commit(self, table: pyiceberg.table.Table, new: list[_Part], gone: list[DataFile]) -> int:
        """Commit one snapshot, and return how many files were copied for it."""
        known = kinds_in(table.schema())
        kinds = kinds_of(unify_schemas(*(part.schema() for part in new))) | known
        misfitting = [part for part in new if part.footer is not None and misfits(part.schema(), kinds)]
        if misfitting and not self.copy:
            raise ValueError(_refusal(misfitting, kinds))
        originals = [part for part in new if part.footer is not None and part not in misfitting]
        copies = [
            (part, converted(part.points(), part.schema(), kinds)) for part in new if part.hot or part in misfitting
        ]
        columns = [name for part in originals if part.footer for name in part.footer.columns]
        if NONE in columns or any(NONE in points.column_names for _, points in copies):
            kinds[NONE] = NONE_KIND
        with table.transaction() as change:
            _add_columns(change, {name: kind for name, kind in kinds.items() if name not in known})
            files = [
                data_file(part.path, part.footer.file_size, part.run, part.footer.metadata, change.table_metadata)
                for part in originals
                if part.footer is not None
            ]
            for part, points in copies:
                size, parquet = _write(table, part.copy_path, points)
                files.append(data_file(part.copy_path, size, part.run, parquet, change.table_metadata))
            with change.update_snapshot().overwrite() as snapshot:
                for file in gone:
                    snapshot.delete_data_file(file)
                for file in files:
                    snapshot.append_data_file(file)
        return len(copies)


def _refusal(misfitting: list[_Part], kinds: Kinds) -> str:
    part = misfitting[0]
    return (
        f"{len(misfitting)} segments do not fit into the table, which is as it was. {part.path}: "
        f"{'; '.join(misfits(part.schema(), kinds))}. With copy=True such segments are copied, converted, into "
        "the table's own folder; sessions= leaves runs out"
    )


def _add_columns(change: pyiceberg.table.Transaction, kinds: Kinds) -> None:
    if kinds:
        with change.update_schema() as schema:
            for name, kind in kinds.items():
                schema.add_column((name,), iceberg_type(kind), doc=JSON_DOC if kind == "json" else None)
    if kinds or NAME_MAPPING not in change.table_metadata.properties:
        # The files know their columns by name only.
        change.set_properties({NAME_MAPPING: change.table_metadata.schema().name_mapping.model_dump_json()})


def _footer(part: _Part) -> Footer | None:
    return None if part.segment is None else part.files.footer(part.segment)


def _is_settled(files: SegmentFiles, name: SegmentName) -> bool:
    """Whether a segment of a run in progress is not merged with its neighbours by itself any more."""
    return name.stop - name.start >= FACTOR**2 * USUAL_POINTS or files.size(name) >= MOST_BYTES // 2


def _write(table: pyiceberg.table.Table, path: str, points: pa.Table) -> tuple[int, pq.FileMetaData]:
    """Write points as a Parquet file of the table's own; the same points make the same file. Its bytes and footer."""
    sink = pa.BufferOutputStream()
    pq.write_table(points, sink, compression="zstd", store_schema=False)
    data = sink.getvalue()
    with table.io.new_output(path).create(overwrite=True) as output:
        output.write(data.to_pybytes())
    return data.size, pq.read_metadata(pa.BufferReader(data))


def _table(catalog: Catalog, name: str | None, track: str, root: str) -> pyiceberg.table.Table:
    """The table, which is made where there is none."""
    identifier = name or "dreamlake." + re.sub(r"[^a-z0-9]+", "_", track.lower())
    *namespace, last = Catalog.identifier_to_tuple(identifier)
    if not namespace:
        raise ValueError(f'table= is "namespace.name", not {identifier!r}')
    try:
        table = catalog.load_table((*namespace, last))
    except NoSuchTableError:
        _make_namespace(catalog, tuple(namespace))
        properties = {**PROPERTIES, TRACK: track, ROOT: root}
        try:
            return catalog.create_table((*namespace, last), schema=BASE, partition_spec=BY_RUN, properties=properties)
        except TableAlreadyExistsError:
            table = catalog.load_table((*namespace, last))
    for key, value in {TRACK: track, ROOT: root}.items():
        found = table.properties.get(key)
        if found != value:
            whose = "none that register made" if found is None else f"that of {found!r}"
            raise ValueError(f"the table {identifier} is {whose}, and not of {value!r}: choose another one (table=)")
    return table


def _make_namespace(catalog: Catalog, namespace: tuple[str, ...]) -> None:
    try:
        catalog.create_namespace_if_not_exists(namespace)
    except NamespaceAlreadyExistsError:
        pass
    except Exception:
        # That another process was first, a catalogue in SQL says with its database's own error.
        if not catalog.namespace_exists(namespace):
            raise


def _location(place: str) -> str:
    """A file or folder as a table names it: by its URL."""
    scheme = scheme_of(place)
    if scheme is None or scheme == "file":
        place = place if scheme else f"file://{place}"
    elif scheme not in SCHEMES:
        raise ValueError(f"no engine finds files by {place!r}: a lake for Iceberg is on a disk, or on S3, GCS or Azure")
    if "#" in place or "?" in place:
        raise ValueError(f"{place!r} cannot be in a table: what comes after '#' or '?' is no part of a path there")
    return place.rstrip("/")


def _s3_properties(options: Mapping[str, Any]) -> dict[str, str]:
    """Options of s3fs as PyIceberg's."""
    client = dict(options.get("client_kwargs") or {})
    environment = os.environ.get
    endpoint = options.get("endpoint_url") or client.get("endpoint_url") or environment("AWS_ENDPOINT_URL")
    region = client.get("region_name") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    found = {
        "s3.endpoint": endpoint,
        "s3.access-key-id": options.get("key"),
        "s3.secret-access-key": options.get("secret"),
        "s3.session-token": options.get("token"),
        # Where none is said, PyIceberg asks AWS, which knows nothing of other servers' buckets.
        "s3.region": region or ("us-east-1" if endpoint else None),
        "s3.anonymous": "true" if options.get("anon") else None,
    }
    return {key: str(value) for key, value in found.items() if value}
