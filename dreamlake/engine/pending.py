"""Points in memory that no flush has written yet: for each track a chain of blocks, the last of them open.

Python raises KeyboardInterrupt, and SystemExit for SIGTERM, between any two bytecodes of the main thread. So every
change here takes effect in one store or one C call: a row goes into its block by a single ``extend``, a block is sealed
by the single store of the next open one. Whenever an append is interrupted, its point is there whole or not at all.
"""

from array import array
from collections.abc import Sequence
from math import inf
from threading import Lock
from typing import Any, Protocol

from dreamlake.clock import SessionClock, check_doubtful, is_inherited
from dreamlake.engine.hotpath import Shape, key_of, pack, pack_row, shape_of, ts_of_row, uneven_fields
from dreamlake.engine.rows import ITEM_BYTES, ColumnRows, MixedRow, Rows, held_bytes, packed_bytes
from dreamlake.format.point import check_ts, take

#: Rows of a block before it is sealed and encoded. Above 1,000, so that fewer than one append in a thousand encodes.
BLOCK_ROWS = 2048
#: A block with more than these bytes of lists, strings and the like is sealed earlier.
BLOCK_BYTES = 1 << 20
#: What a scalar field of a pending point costs: a Python float and its place in the list.
SCALAR_BYTES = 32


class Block:
    """Rows of one track in the order of their arrival; open until another block stands behind it.

    A *flat* block (``names`` is set) has rows of one shape and one kind of timestamp, each row above the one before;
    it keeps the values of all rows in one list, since a list per row would wake the garbage collector; lists among them
    are tuples there, or packed. Where ``codes`` is set, that list has one item for each row, which is packed as a
    whole. A *mixed* block (``rows`` is set) takes any row. A *ready* block (``ready`` is set)
    came from `append_batch`, encoded.
    """

    __slots__ = (
        "awaited", "before", "codes", "explicit", "flat", "floats", "key", "limit", "names", "ready", "result",
        "row_size", "rows", "shape", "size",
    )  # fmt: skip

    def __init__(self, before: "Block | None" = None) -> None:
        self.before = before
        #: What stands for the rows that fit this block as they come, and their shape; None when each needs a look.
        self.key: tuple[str, ...] | None = None
        self.shape: Shape | None = None
        self.names: tuple[str, ...] | None = None
        #: For each field how many floats every value has, packed as bytes; 0 for values as they are.
        self.floats: tuple[int, ...] = ()
        #: For each field the code by which its values are packed, where rows are packed as a whole; else nothing.
        self.codes = ""
        self.explicit = False
        self.flat: list[Any] = []
        #: Length of `flat` at which this block is sealed.
        self.limit = 0
        self.rows: list[MixedRow] | None = None
        self.ready: Rows | None = None
        #: Whether `append_batch` waits for it to be written.
        self.awaited = False
        #: Bytes held by values that are not scalars, estimated.
        self.size = 0
        #: The same for each row that came without a look at its size, at most.
        self.row_size = 0
        #: The half-open range of indices that its rows got; None until they are written.
        self.result: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """Rows in this block."""
        if self.codes:
            return len(self.flat)
        if self.names is not None:
            return len(self.flat) // (len(self.names) + 1)
        if self.rows is not None:
            return len(self.rows)
        return 0 if self.ready is None else self.ready.count

    @property
    def nbytes(self) -> int:
        """Memory that the rows of this block take, estimated."""
        scalars = len(self.flat) if self.rows is None else sum(len(row[2]) + 4 for row in self.rows)
        return self.size + self.row_size * self.count + SCALAR_BYTES * scalars

    def encode(self) -> Rows | None:
        """Return the rows of a sealed block in the form that a flush writes; None for a mixed block."""
        if self.ready is None and self.names is not None:
            stride = len(self.names) + 1
            if self.codes:
                cells = memoryview(b"".join(self.flat)).cast("q")  # of eight bytes each, whatever is in them
                packed = [array(code, cells[i::stride].tobytes()) for i, code in enumerate(self.codes + "d")]
                types = [float if code == "d" else int for code in self.codes]
                self.ready = ColumnRows(self.names, packed[:-1], packed[-1], self.explicit, types)
                return self.ready
            columns: list[Sequence[Any]] = [self.flat[i::stride] for i in range(stride)]
            ts = columns.pop()
            self.ready = ColumnRows(self.names, columns, ts, self.explicit, floats=self.floats)
        return self.ready


class Owner(Protocol):
    """What a track's pending points need of their session's writer."""

    lock: Lock
    clock: SessionClock

    def admit(self) -> None:
        """Raise SessionClosedError when no more points are taken; called with the lock held."""

    def wake(self) -> None:
        """See that something will flush what is pending; called without the lock."""

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more may stay in memory; counted as pending if so. The lock is held."""

    def count_dropped(self, points: int) -> None:
        """Count points that were given up because memory and disk are full."""

    def on_sealed(self, pending: "Pending", block: Block) -> None:
        """Encode a sealed block and see that it is written; called without the lock."""


class Pending:
    """The pending points of one track. Thread-safe; every public method may be called from any thread."""

    __slots__ = ("_max_ts", "hot_points", "open", "owner", "uneven")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.open = Block()
        #: Fields that once had a list of as many floats as the one before, and then another value: no longer packed.
        self.uneven: set[str] = set()
        # The highest timestamp of the blocks before the open one.
        self._max_ts = -inf
        #: Points in the hot file as of the last flush, for the writer's decision to roll.
        self.hot_points = 0

    def append(self, fields: dict[str, Any]) -> None:
        """Take a point of any shape and any timestamp: checked, copied, and stored in the block that fits it.

        `fields` may hold ``_ts``, and belongs to this object from now on.
        """
        owner = self.owner
        given = fields.pop("_ts", None)
        explicit = given is not None
        inherited = explicit and is_inherited(given)
        ts = check_ts(given) if explicit and not inherited else 0.0
        values, size = take(fields)
        with owner.lock:
            owner.admit()
            if inherited:
                check_doubtful(given, owner.clock.latest)
                explicit = owner.clock.latest is not None  # with nothing to inherit it is an automatic one
                ts = owner.clock.inherit()
            elif explicit:
                owner.clock.note(ts)
            else:
                ts = owner.clock.draw()
            sealed = self._store(values, ts, explicit, size)
        owner.wake()
        if sealed is not None:
            owner.on_sealed(self, sealed)

    @property
    def max_ts(self) -> float:
        """The highest timestamp appended by this process: an explicit one above it merges with no pending point."""
        block = self.open
        # A flat block rises, so its last row has its highest timestamp; `hotpath` leaves it at that.
        if not block.flat:
            return self._max_ts
        return max(self._max_ts, ts_of_row(block.flat[-1]) if block.codes else block.flat[-1])

    def _store(self, values: dict[str, Any], ts: float, explicit: bool, size: int) -> Block | None:
        """Put a checked row into the open block, or into a new one that fits it; return a block that this sealed."""
        block = self.open
        highest = self.max_ts
        may_merge = explicit and ts <= highest
        names = tuple(values)
        self._max_ts = max(highest, ts)
        if block.rows is not None:
            block.rows.append((ts, explicit, values))
        else:
            fits = names == block.names and explicit == block.explicit and not may_merge
            row = _row(block, values, ts) if fits else None
            if row is not None:
                block.flat.extend(row)
            else:
                if fits:
                    self.uneven.update(uneven_fields(values, block.floats, block.codes))
                before = block if block.count else block.before
                if may_merge or block.count:
                    block = _mixed_block(before, (ts, explicit, values))
                else:
                    block = self._flat_block(before, values, explicit, ts)
                self.open = block  # with its first row in it: whoever finds the block finds the row
        block.size += size
        if block.size >= BLOCK_BYTES or block.count >= BLOCK_ROWS:
            return self.seal(block)
        return None

    def _flat_block(self, before: Block | None, like: dict[str, Any], explicit: bool, ts: float) -> Block:
        """Return a block with this point as its first row."""
        block = Block(before)
        block.names = tuple(like)
        block.explicit = explicit
        block.floats = (0,) * len(like)
        block.limit = BLOCK_ROWS * (len(like) + 1)
        # Above such a timestamp a later -1.0 would pass for one of its own, and not for the one to inherit.
        may_meet_minus_one = explicit and ts < -1
        shape = None if may_meet_minus_one else shape_of(like, explicit, self.uneven)
        block.key = None if shape is None else key_of(shape)
        if shape is not None and block.key is not None:
            block.shape = shape
            block.floats, block.codes = shape[3:]
            block.row_size = sum(map(_most_bytes, shape[2], shape[3]))
            if block.codes:
                block.row_size = packed_bytes(len(like))
                block.limit = BLOCK_ROWS
            elif block.row_size:
                block.limit = min(BLOCK_ROWS, max(1, BLOCK_BYTES // block.row_size)) * (len(like) + 1)
        row = _row(block, like, ts)
        assert row is not None, "the shape is that of this very point"
        block.flat.extend(row)
        return block

    def add(self, rows: Rows | list[MixedRow], max_ts: float) -> Block:
        """Append the rows of a batch as a block of their own, behind all earlier appends; the owner's lock is held."""
        block = Block(self.open if self.open.count else self.open.before)
        block.awaited = True
        if isinstance(rows, list):
            block.rows = rows
            block.size = held_bytes(rows)
        else:
            block.ready = rows
            block.size = rows.nbytes
        self._max_ts = max(self.max_ts, max_ts)
        self.open = Block(block)
        return block

    def seal(self, block: Block) -> Block | None:
        """Put a new open block behind `block`, or in its place where memory is full; the owner's lock is held."""
        self._max_ts = self.max_ts
        if self.owner.has_room(block.nbytes):
            self.open = Block(block)
            return block
        self.owner.count_dropped(block.count)
        self.open = Block(block.before)
        return None

    def take(self) -> list[Block]:
        """Seal what is open and return all blocks that wait for a flush, oldest first."""
        with self.owner.lock:
            self.shut()
            return chain_of(self.open.before)

    def shut(self) -> None:
        """Seal what is open, so that the next append comes by `append`; the owner's lock is held."""
        self._max_ts = self.max_ts
        self.open = Block(self.open if self.open.count else self.open.before)

    def drop_newest(self, nbytes: int) -> int:
        """Give up the newest sealed blocks until `nbytes` are free or none is left; return the bytes freed."""
        freed = 0
        with self.owner.lock:
            before = self.open.before
            while before is not None and freed < nbytes:
                freed += before.nbytes
                self.owner.count_dropped(before.count)
                before = before.before
            self.open.before = before
        return freed

    def waiting_rows(self) -> int:
        """Rows in sealed blocks."""
        return sum(block.count for block in chain_of(self.open.before))

    def waiting_bytes(self) -> int:
        """Memory that the sealed blocks take, estimated."""
        return sum(block.nbytes for block in chain_of(self.open.before))

    def is_empty(self) -> bool:
        """Whether nothing waits for a flush."""
        block = self.open
        return block.before is None and not block.count

    def replace(self, last: Block, rest: Block | None) -> None:
        """Take the blocks up to and with `last` away, since they are written, and put `rest` in their place."""
        with self.owner.lock:
            block = self.open
            while block.before is not last:
                if block.before is None:
                    return
                block = block.before
            block.before = rest

    def clear(self) -> None:
        """Forget everything, as a forked child must."""
        self.open = Block()
        self.hot_points = 0


def chain_of(last: Block | None) -> list[Block]:
    """Return a block and all before it, oldest first."""
    chain = []
    while last is not None:
        chain.append(last)
        last = last.before
    return chain[::-1]


def _row(block: Block, values: dict[str, Any], ts: float) -> list[Any] | None:
    """Return what a flat block holds of a row; None for a point that does not fit."""
    if not block.codes:
        row = pack(values, block.floats)
        return None if row is None else [*row, ts]
    whole = pack_row(values, block.codes, ts)
    return None if whole is None else [whole]


def _most_bytes(room: int, floats: int) -> int:
    """Return what a list takes in memory for which there is so much room, or which is packed."""
    return packed_bytes(floats) if floats else ITEM_BYTES * room


def _mixed_block(before: Block | None, row: MixedRow) -> Block:
    block = Block(before)
    block.rows = [row]
    return block
