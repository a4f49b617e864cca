"""Columns of a track as columns of an Iceberg table, and segments as its data files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DoubleType,
    IcebergType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from dreamlake.format.logical import unify
from dreamlake.format.schema import conform_table, plain_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow.parquet as pq
    from pyiceberg.table.metadata import TableMetadata

    from dreamlake.format.logical import Logical, TrackSchema

#: A column's type: the name of an Iceberg type, ``"json"`` for text that is JSON, ``{"list": …}`` or ``{"struct": …}``.
Kind = str | dict[str, Any]
Kinds = dict[str, Kind]

#: What a column of JSON text says of itself in the table.
JSON_DOC = "JSON text"
NONE_KIND: Kind = {"list": "string"}

_PLAIN: dict[str, tuple[IcebergType, str]] = {
    "boolean": (BooleanType(), "bool"),
    "long": (LongType(), "int64"),
    "double": (DoubleType(), "double"),
    "string": (StringType(), "string"),
    "binary": (BinaryType(), "binary"),
    "timestamp": (TimestampType(), "timestamp"),
    "timestamptz": (TimestamptzType(), "timestamp:UTC"),
}
_OF_LOGICAL = {logical: kind for kind, (_, logical) in _PLAIN.items()} | {"int": "long", "json": "json"}

BASE = Schema(
    NestedField(1, "_workspace", StringType()),
    NestedField(2, "_session", StringType()),
    NestedField(3, "_index", LongType()),
    NestedField(4, "_ts", DoubleType(), doc="seconds since the epoch"),
)
#: The run stands in no file. An identity partition is what lets a table tell a column that its files lack.
BY_RUN = PartitionSpec(
    PartitionField(1, 1000, IdentityTransform(), "_workspace"), PartitionField(2, 1001, IdentityTransform(), "_session")
)


# ------------------------------------------------------------------------------------------------------ types


def kind_of(logical: Logical) -> Kind | None:
    """The kind of a column of this logical type; None where it holds no value (nulls, and lists of nulls, only)."""
    if isinstance(logical, str):
        return "timestamptz" if logical.startswith("timestamp:") else _OF_LOGICAL.get(logical)
    if "list" in logical:
        inner = kind_of(logical["list"])
        return None if inner is None else {"list": inner}
    fields = {name: kind_of(inner) for name, inner in logical["struct"].items()}
    return None if None in fields.values() else {"struct": fields}


def kinds_of(schema: TrackSchema) -> Kinds:
    """The kind of each field that has one."""
    return {name: kind for name, logical in schema.items() if (kind := kind_of(logical)) is not None}


def kinds_in(schema: Schema) -> Kinds:
    """The kinds of the columns of a table."""
    return {field.name: "json" if field.doc == JSON_DOC else _kind_in(field.field_type) for field in schema.fields}


def _kind_in(kind: IcebergType) -> Kind:
    if isinstance(kind, ListType):
        return {"list": _kind_in(kind.element_type)}
    if isinstance(kind, StructType):
        return {"struct": {field.name: _kind_in(field.field_type) for field in kind.fields}}
    return str(kind)


def iceberg_type(kind: Kind) -> IcebergType:
    """The type of such a column; the ids in it are given anew by the table."""
    if isinstance(kind, str):
        return StringType() if kind == "json" else _PLAIN[kind][0]
    if "list" in kind:
        return ListType(0, iceberg_type(kind["list"]), element_required=False)
    fields = [NestedField(at, name, iceberg_type(inner)) for at, (name, inner) in enumerate(kind["struct"].items())]
    return StructType(*fields)


def _logical(kind: Kind) -> Logical:
    if isinstance(kind, str):
        return "json" if kind == "json" else _PLAIN[kind][1]
    if "list" in kind:
        return {"list": _logical(kind["list"])}
    return {"struct": {name: _logical(inner) for name, inner in kind["struct"].items()}}


def misfits(schema: Mapping[str, Logical], kinds: Kinds) -> list[str]:
    """Why a segment with these columns is no data file as it is of a table with columns of `kinds`; empty if it is."""
    found = []
    for name, logical in schema.items():
        kind = kind_of(logical)
        if kind is None:
            found.append(f"{name!r} has no value in it, which Iceberg has no type for")
        elif kind == "json":
            found.append(f"{name!r} is JSON of mixed types there, which Iceberg has no type for")
        elif kind != kinds.get(name, kind):
            found.append(f"{name!r} is {_text(kind)} there, and {_text(kinds[name])} in the table")
    return found


def _text(kind: Kind) -> str:
    return kind if isinstance(kind, str) else "list" if "list" in kind else "struct"


# ------------------------------------------------------------------------------------------------------ files


def converted(table: pa.Table, schema: TrackSchema, kinds: Kinds) -> pa.Table:
    """Points with the column types of a table; fields that have no value, and that it lacks, are left out.

    Parameters
    ----------
    table
        ``_index``, ``_ts``, fields, and ``_none`` where there is one.
    schema
        The types of these fields.
    kinds
        The columns of the Iceberg table.

    Raises
    ------
    ValueError
        A field cannot become what the table has.
    """
    wanted: TrackSchema = {}
    for name, logical in schema.items():
        if name not in kinds:
            continue
        wanted[name] = logical if kind_of(logical) == kinds[name] else unify(logical, _logical(kinds[name]))
        if kind_of(wanted[name]) != kinds[name]:
            raise ValueError(
                f"the field {name!r} holds what does not fit into the {_text(kinds[name])} column that the table "
                "has for it, and Iceberg cannot widen that column: register the track into a new table (table=)"
            )
    return plain_json(conform_table(table, schema, wanted))


def data_file(
    path: str, size: int, run: tuple[str, str], parquet: pq.FileMetaData, metadata: TableMetadata
) -> DataFile:
    """A Parquet file of a run as an entry of the table, with the statistics that its footer has.

    Parameters
    ----------
    path, size
        Where engines find it, and its bytes.
    run
        Its workspace and session.
    parquet
        Its footer.
    metadata
        The table, with all columns of the file.
    """
    schema = metadata.schema()
    statistics = data_file_statistics_from_parquet_metadata(
        parquet, compute_statistics_plan(schema, metadata.properties), parquet_path_to_id_mapping(schema)
    )
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(*run),
        file_size_in_bytes=size,
        sort_order_id=None,
        spec_id=metadata.default_spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
