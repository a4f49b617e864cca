"""The columns and types that a table is wanted in, and stored tables brought into them."""

from __future__ import annotations

from functools import cached_property

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Sized

    import pyarrow as pa

    from dreamlake.format.logical import Logical

INDEX = "_index"
TS = "_ts"


_QUICK = frozenset({"null", "bool", "int", "int64", "double"})


class Shape:
    """Columns wanted, in their order, with their types: made once for a read, and used for each of its pieces.

    Parameters
    ----------
    columns
        ``_index``, ``_ts`` and names of `fields`; each at most once.
    fields
        The type of each field; all columns of JSON become plain strings.
    """

    def __init__(self, columns: Sequence[str], fields: Mapping[str, Logical]) -> None:
        self.columns = columns
        #: The fields among the columns.
        self.fields = {name: fields[name] for name in columns if name in fields}
        #: What must be read from a segment: all but the index, which its name tells.
        self.stored = [name for name in columns if name != INDEX]

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns as Arrow sees them."""
        import pyarrow as pa

        from dreamlake.format.logical import to_arrow

        kinds: dict[str, pa.Field] = {
            INDEX: pa.field(INDEX, pa.int64(), nullable=False),
            TS: pa.field(TS, pa.float64(), nullable=False),
        }
        for name, kind in self.fields.items():
            kinds[name] = pa.field(name, pa.string() if kind == "json" else to_arrow(kind))
        return pa.schema([kinds[name] for name in self.columns])

    def values_of(self, pieces: Sequence[Sized]) -> int:
        """About how many values a piece gives; those that are no plain numbers take as long as several."""
        weight = sum(1 if isinstance(kind, str) and kind in _QUICK else 4 for kind in self.fields.values())
        weight += TS in self.columns
        return weight * max(map(len, pieces), default=0)

    def empty(self) -> pa.Table:
        """No rows."""
        return self.schema.empty_table()

    def fits(self, have: Mapping[str, Logical]) -> str | None:
        """The first field whose stored type, in `have`, is wider than the one wanted; None when all fit."""
        from dreamlake.format.logical import unify

        for name, kind in self.fields.items():
            if name in have and have[name] != kind and unify(have[name], kind) != kind:
                return name
        return None

    def of(self, table: pa.Table | None, have: Mapping[str, Logical], indices: Sequence[int]) -> pa.Table:
        """The rows of `table` in this shape.

        Parameters
        ----------
        table
            As read from a segment or made from hot points; None where nothing is `stored`.
        have
            The types of its fields.
        indices
            The index of each row.
        """
        import pyarrow as pa

        arrays = []
        for name, field in zip(self.columns, self.schema, strict=True):
            if name == INDEX:
                array = _int64(indices)
            elif name != TS and name not in have:
                array = pa.nulls(len(indices), field.type)
            else:
                assert table is not None
                array = table.column(name)
                if name != TS and (have[name] != self.fields[name] or have[name] == "json"):
                    array = self._widened(table, have, name)
            arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _widened(self, table: pa.Table, have: Mapping[str, Logical], name: str) -> pa.ChunkedArray:
        from dreamlake.format.schema import conform_table, plain_json

        wide = conform_table(table.select([name]), {name: have[name]}, {name: self.fields[name]})
        return plain_json(wide).column(0)


def _int64(indices: Sequence[int]) -> pa.Array:
    import pyarrow as pa

    if isinstance(indices, range) and hasattr(pa, "arange"):
        return pa.arange(indices.start, indices.stop)
    from array import array

    return pa.Array.from_buffers(pa.int64(), len(indices), [None, pa.py_buffer(array("q", indices))])
