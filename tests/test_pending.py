"""Pending points: blocks of rows, what fits where, what is given up when memory is full."""

from __future__ import annotations

import json
import sys
from threading import Lock, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import Time
from values import floats, integers, same, values

import dreamlake.engine.hotpath as hotpath
from dreamlake.clock import SessionClock
from dreamlake.engine.hotpath import bind
from dreamlake.engine.pending import BLOCK_BYTES, BLOCK_ROWS, Block, Pending, chain_of
from dreamlake.engine.rows import ITEM_BYTES, ColumnRows, Rows
from dreamlake.errors import SessionClosedError
from dreamlake.format.extjson import from_json
from dreamlake.format.point import encode_lines, take_value
from dreamlake.format.schema import batch_from_points, to_points


class Owner:
    """What pending points need of a writer, and a note of what they asked."""

    def __init__(self, room: float = float("inf")) -> None:
        self.lock = Lock()
        self.clock = SessionClock(Time())
        self.room = room
        self.closed = False
        self.dropped = 0
        self.sealed: list[Block] = []
        self.woken = 0

    def admit(self) -> None:
        if self.closed:
            raise SessionClosedError("closed")

    def wake(self) -> None:
        self.woken += 1

    def has_room(self, nbytes: int) -> bool:
        return nbytes <= self.room

    def count_dropped(self, points: int) -> None:
        self.dropped += points

    def on_sealed(self, pending: Pending, block: Block) -> None:
        self.sealed.append(block)


class Bound:
    """A track as `bind` sees one."""

    def __init__(self, pending: Pending) -> None:
        self.append: Any = bind(self, pending, self.install)
        self.installed = 0

    def install(self, append: Any) -> None:
        self.append = append
        self.installed += 1


def rows_of(chain: list[Block]) -> list[tuple[float, bool, dict[str, Any]]]:
    rows = []
    for block in chain:
        made = block.encode()
        rows += made.mixed() if made is not None else block.rows or []
    return rows


def both_ways(pending: Pending) -> list[Any]:
    """The general append, and the generated one of a track."""
    bound = Bound(pending)

    def general(**fields: Any) -> None:
        pending.append(fields)

    def generated(**fields: Any) -> None:
        bound.append(**fields)  # another one once points of a shape have come

    return [general, generated]


@pytest.mark.parametrize("way", [0, 1])
def test_rows_come_back_in_their_order_with_their_kind(way: int) -> None:
    owner = Owner()
    pending = Pending(owner)
    append = both_ways(pending)[way]
    for step in range(5):
        append(a=step, b=0.5)
    append(c="other", _ts=3.0)
    append(c="again", _ts=3.0)
    append(a=5, b=1.5)
    append(b=2.5, a=6)
    append(q=[1, 2], _ts=-1)
    got = rows_of(pending.take())
    assert [(explicit, fields) for _, explicit, fields in got] == [
        *((False, {"a": step, "b": 0.5}) for step in range(5)),
        (True, {"c": "other"}),
        (True, {"c": "again"}),
        (False, {"a": 5, "b": 1.5}),
        (False, {"b": 2.5, "a": 6}),
        (True, {"q": [1, 2]}),
    ]
    automatic = [ts for ts, explicit, _ in got if not explicit]
    assert automatic == sorted(set(automatic))
    assert [got[5][0], got[6][0]] == [3.0, 3.0]
    assert got[9][0] == got[8][0], "-1 takes the latest"
    assert owner.woken > 0


def test_one_shape_stays_in_one_flat_block_and_is_sealed_when_full() -> None:
    owner = Owner()
    pending = Pending(owner)
    bound = Bound(pending)
    for step in range(BLOCK_ROWS + 1):
        bound.append(a=step)
    assert [block.count for block in owner.sealed] == [BLOCK_ROWS]
    assert bound.installed == 1
    chain = pending.take()
    assert [block.count for block in chain] == [BLOCK_ROWS, 1]
    assert [fields["a"] for _, _, fields in rows_of(chain)] == list(range(BLOCK_ROWS + 1))


def test_an_explicit_block_rises_and_a_timestamp_not_above_goes_to_a_mixed_one() -> None:
    pending = Pending(Owner())
    bound = Bound(pending)
    for ts in (1.0, 2.0, 3.0, 2.5, 9.0):
        bound.append(a=0, _ts=ts)
    chain = pending.take()
    assert [block.rows is None for block in chain] == [True, False]
    assert [ts for ts, _, _ in rows_of(chain)] == [1.0, 2.0, 3.0, 2.5, 9.0]


def test_an_explicit_timestamp_below_an_earlier_block_is_not_taken_for_a_new_point() -> None:
    """A flat explicit block is written without a look-up; so its first row must lie above all that came before."""
    pending = Pending(Owner())
    bound = Bound(pending)
    bound.append(a=0, _ts=5.0)
    pending.take()
    bound.append(a=1, _ts=5.0)
    (_, second) = pending.take()
    assert second.rows is not None


@pytest.mark.parametrize("way", [0, 1])
def test_large_values_seal_a_block_early(way: int) -> None:
    owner = Owner()
    pending = Pending(owner)
    append = both_ways(pending)[way]
    for _ in range(3):
        append(text="x" * (BLOCK_BYTES // 2))
    assert [block.count for block in owner.sealed] == [2]


def test_memory_that_is_full_drops_whole_blocks_and_counts_points() -> None:
    owner = Owner(room=0)
    pending = Pending(owner)
    bound = Bound(pending)
    for step in range(BLOCK_ROWS + 10):
        bound.append(a=step)
    assert owner.dropped == BLOCK_ROWS
    assert owner.sealed == []
    assert [fields["a"] for _, _, fields in rows_of(pending.take())] == list(range(BLOCK_ROWS, BLOCK_ROWS + 10))


def test_the_newest_blocks_are_given_up_first() -> None:
    owner = Owner()
    pending = Pending(owner)
    for step in range(3):
        pending.append({"a": step})
        pending.take()
    freed = pending.drop_newest(1)
    assert freed > 0
    assert owner.dropped == 1
    assert [fields["a"] for _, _, fields in rows_of(pending.take())] == [0, 1]
    assert pending.drop_newest(10**9) > 0
    assert pending.is_empty()
    assert owner.dropped == 3


def test_what_arrives_during_a_write_stays_behind_what_is_left_of_it() -> None:
    pending = Pending(Owner())
    pending.append({"a": 0})
    pending.append({"a": 1})
    chain = pending.take()
    pending.append({"a": 2})
    rest = Block()
    rest.rows = [(1.0, False, {"a": 1})]
    pending.replace(chain[-1], rest)
    assert [fields["a"] for _, _, fields in rows_of(pending.take())] == [1, 2]
    pending.replace(chain[-1], None)
    assert not pending.is_empty(), "a chain that is no longer there takes nothing away"


@pytest.mark.parametrize("way", [0, 1])
def test_a_closed_owner_takes_no_more(way: int) -> None:
    owner = Owner()
    pending = Pending(owner)
    append = both_ways(pending)[way]
    append(a=1)
    append(a=2)
    owner.closed = True
    with owner.lock:
        pending.shut()
    with pytest.raises(SessionClosedError):
        append(a=3)
    assert len(rows_of(pending.take())) == 2


@pytest.mark.parametrize("way", [0, 1])
def test_a_refused_point_leaves_nothing_behind(way: int) -> None:
    owner = Owner()
    pending = Pending(owner)
    append = both_ways(pending)[way]
    append(a=1, b=2)
    append(a=1, b=2)
    last = owner.clock.last
    for bad in ({"a": object(), "b": 1}, {"a": 1, "_x": 1}, {"a": 1, "b": 1, "_ts": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            append(**bad)
    assert owner.clock.last == last
    assert owner.clock.latest == last
    assert len(rows_of(pending.take())) == 2


def test_appends_of_many_threads_are_all_there_in_the_order_of_their_timestamps() -> None:
    owner = Owner()
    pending = Pending(owner)
    bound = Bound(pending)

    def work(number: int) -> None:
        for step in range(3000):
            if step % 7:
                bound.append(thread=number, step=step)
            else:
                bound.append(thread=number, step=step, extra=[step])

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = rows_of(pending.take())
    assert len(rows) == 12_000
    stamps = [ts for ts, _, _ in rows]
    assert stamps == sorted(set(stamps))
    for number in range(4):
        assert [f["step"] for _, _, f in rows if f["thread"] == number] == list(range(3000))


def test_memory_is_estimated_for_every_form() -> None:
    pending = Pending(Owner())
    pending.append({"a": 1})
    pending.append({"b": "x" * 1000, "_ts": 0.0})
    flat, mixed = pending.take()
    assert flat.nbytes >= 64
    assert mixed.nbytes >= 1000
    assert pending.waiting_rows() == 2
    assert pending.waiting_bytes() == flat.nbytes + mixed.nbytes
    assert chain_of(None) == []


# -- points that hold lists ----------------------------------------------------------------------------------------

scalars = st.one_of(st.none(), st.booleans(), integers, floats)
listed = st.one_of(st.lists(scalars, max_size=20), st.lists(scalars, max_size=20).map(tuple), values)


@given(st.lists(st.tuples(listed, listed), min_size=1, max_size=12), st.booleans())
def test_lists_of_every_kind_come_back_as_lists_by_both_ways(points: list[tuple[Any, Any]], explicit: bool) -> None:
    got = []
    for way in (0, 1):
        pending = Pending(Owner())
        append = both_ways(pending)[way]
        append(q=[0.5] * 3, v=[1])
        for at, (q, v) in enumerate(points):
            append(q=q, v=v, **({"_ts": 1e9 + at} if explicit else {}))
        chain = pending.take()
        for block in chain:
            made = block.encode()
            if made is not None:  # the forms in which a flush writes them agree with the points
                wanted = made.points()
                other = batch_from_points(wanted)
                assert made.batch().schema == other.schema
                assert same(to_points(made.batch().data, other.schema), to_points(other.data, other.schema))
                read = [json.loads(line)["data"] for line in made.lines(0).splitlines()]
                assert same([{k: from_json(x) for k, x in point.items()} for point in read], wanted)
        got.append([fields for _, _, fields in rows_of(chain)])
    plain = [{"q": take_value("q", q)[0], "v": take_value("v", v)[0]} for q, v in points]
    assert same(got[0], [{"q": [0.5] * 3, "v": [1]}, *plain])
    assert same(got[1], got[0])


def test_lists_are_copied_when_they_are_taken() -> None:
    pending = Pending(Owner())
    append = both_ways(pending)[1]
    joints = [0.0, 0.0]
    for step in range(4):
        joints[0] = float(step)
        append(q=joints, inner=[joints] if step == 3 else joints)
    joints.clear()
    got = [fields for _, _, fields in rows_of(pending.take())]
    assert [fields["q"] for fields in got] == [[float(step), 0.0] for step in range(4)]
    assert got[3]["inner"] == [[3.0, 0.0]]


def test_points_with_lists_take_the_generated_way_and_are_sealed_early() -> None:
    owner = Owner()
    general = 0

    class Counted(Pending):
        def append(self, fields: dict[str, Any]) -> None:
            nonlocal general
            general += 1
            super().append(fields)

    bound = Bound(Counted(owner))
    for step in range(300):
        bound.append(q=[0.5] * 1000, step=step)
    assert general <= 1 + len(owner.sealed), "the first of each block only"
    assert all(block.nbytes <= 2 * BLOCK_BYTES for block in owner.sealed)
    assert len(owner.sealed) == 300 // (BLOCK_BYTES // (1024 * ITEM_BYTES))
    assert owner.sealed[0].nbytes >= owner.sealed[0].count * 1000 * 32


@pytest.mark.parametrize("bad", [object(), [object()], [[1.0], {2}], [float, 1.0], {"a": [object()]}, {1: 2}])
def test_a_bad_list_is_refused_by_the_call_also_where_lists_went_before(bad: Any) -> None:
    pending = Pending(Owner())
    append = both_ways(pending)[1]
    append(q=[0.5], v=[1.0])
    append(q=[1.5], v=[1.0])
    with pytest.raises(TypeError, match=r"field 'q'|keys are strings"):
        append(q=bad, v=[1.0])
    append(q=[2.5], v=[1.0])
    assert [fields["q"] for _, _, fields in rows_of(pending.take())] == [[0.5], [1.5], [2.5]]


def test_a_list_that_grows_beyond_what_a_point_may_hold_is_refused() -> None:
    pending = Pending(Owner())
    append = both_ways(pending)[1]
    for length in (1, 8, 9, 1000, 5000):
        append(q=[0.5] * length)
    with pytest.raises(ValueError, match="field 'q'"):
        append(q=[0.5] * 600_000)
    assert [len(fields["q"]) for _, _, fields in rows_of(pending.take())] == [1, 8, 9, 1000, 5000]


def test_lists_of_many_lengths_make_few_functions() -> None:
    before = len(hotpath._shapes)
    for length in range(1, 1500):
        pending = Pending(Owner())
        bound = Bound(pending)
        bound.append(lengths_of_this_test=[0] * length)
        assert bound.installed == (length <= hotpath.MOST_ITEMS)
    assert len(hotpath._shapes) - before == 8  # room for 8, 16 … 1024


def test_lists_of_floats_of_many_lengths_make_few_functions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotpath, "_shapes", {})
    monkeypatch.setattr(hotpath, "MOST_EXACT_SHAPES", 5)
    for length in (*range(1, 40), *range(1, 40)):
        bound = Bound(Pending(Owner()))
        bound.append(q=[0.5] * length)
        assert bound.installed
    # The lengths 1 to 5, which go on to count, and then room for 8, 16, 32 and 64.
    assert [(room[0], floats[0]) for _, _, room, floats, _ in hotpath._shapes] == [
        *((8, length) for length in range(1, 6)),
        *((room, 0) for room in (8, 16, 32, 64)),
    ]


class Rate(float):
    """A float that is none exactly."""


@pytest.mark.parametrize("length", [1, 7, hotpath.MOST_FLOATS, hotpath.MOST_FLOATS + 1])
@pytest.mark.parametrize("other", [3, True, None, "x", Rate(2.5), [1.0], float("nan")])
def test_lists_that_are_no_longer_just_floats_come_out_as_they_went_in(length: int, other: Any) -> None:
    """The function made for so many floats takes each of these at any place, and lists of other lengths."""
    pending = Pending(Owner())
    bound = Bound(pending)
    given = [[0.5 + at for at in range(length)] for _ in range(3)]
    for at in {0, length // 2, length - 1}:
        given.append([*given[0][:at], other, *given[0][at + 1 :]])
        given.append(given[0][:at])
        given.append([*given[0], 9.0])
    for q in given:
        bound.append(q=q)
    got = [fields["q"] for _, _, fields in rows_of(pending.take())]
    for q, found in zip(given, got, strict=True):
        assert repr(list(found)) == repr(q)
        assert {type(item) for item in found} <= {float, int, bool, type(None), str, list}


def assert_columns_of_its_points(rows: Rows) -> None:
    """Its columns are those that a look at each value would make."""
    looked = batch_from_points(rows.points())
    assert rows.batch().schema == looked.schema
    assert rows.batch().data.equals(looked.data) or repr(rows.batch().data) == repr(looked.data)  # NaN
    assert repr(rows.slice(0, 1).batch().data) == repr(looked.data.slice(0, 1))


_joints = st.lists(st.floats(), min_size=2, max_size=2)
_any_list = st.lists(st.floats() | st.integers(-9, 9) | st.booleans() | st.none(), max_size=3)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["call", "call", "call", "general", "flush"]),
            st.one_of(_joints, _joints, _joints, _any_list, st.just("text"), st.just([[1.0, 2.0]])),
            st.one_of(_joints, _joints, st.floats()),
        ),
        max_size=12,
    )
)
def test_lists_known_to_be_floats_become_the_column_that_a_look_at_each_would_make(rows: list[Any]) -> None:
    """Also where some come by another way, or are not floats, or not so many."""
    pending = Pending(Owner())
    bound = Bound(pending)
    for way, q, v in rows:
        if way == "flush":
            pending.shut()
        elif way == "general":
            pending.append({"q": q, "v": v})
        else:
            bound.append(q=q, v=v)
    for block in pending.take():
        made = block.encode()
        if made is not None:
            assert_columns_of_its_points(made)


def test_floats_are_packed_until_a_value_is_not_as_many() -> None:
    """What the test above cannot see: that lists are packed at all, and which of them are not any more."""
    pending = Pending(Owner())
    bound = Bound(pending)

    def packed(**other: Any) -> list[tuple[int, ...] | None]:
        for step in range(3):
            bound.append(q=[0.5 + step, 1.5], v=(2.5, 3.5, 4.5), step=step)
        if other:
            pending.append({"q": [0.5, 1.5], "v": (1.0, 2.0, 3.0), "step": 1, **other})
            pending.append({"q": [0.5, 1.5], "v": (1.0, 2.0, 3.0), "step": 1})
        chain = pending.take()
        pending.replace(chain[-1], None)
        made = [block.encode() for block in chain]
        return [tuple(rows.floats) if isinstance(rows, ColumnRows) else None for rows in made]

    assert packed() == [(2, 3, 0)]
    assert packed(q=[0.5, float("nan")]) == [(2, 3, 0)], "the general way packs as well"
    assert packed(q=[0.5, 1]) == [(2, 3, 0), None], "rows of any kind behind it, until the flush"
    assert packed() == [(0, 3, 0)]
    assert packed(q=b"0123456789abcdef") == [(0, 3, 0)], "no list of doubles, though as long in bytes"
    assert packed(v=[1.0]) == [(0, 3, 0), None]
    assert packed() == [(0, 0, 0)]
    assert bound.installed == 3


_numbers = st.floats() | st.integers(-(2**65), 2**65)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["call", "call", "call", "general", "flush", "inherit"]),
            st.one_of(st.floats(), st.floats(), _numbers, st.none() | st.booleans() | st.just("text")),
            st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 9), _numbers),
        ),
        max_size=12,
    )
)
def test_packed_rows_become_what_their_values_would(rows: list[Any]) -> None:
    """Floats and integers, packed until one is of another type or too large; NaN and -0.0 bit by bit."""
    pending = Pending(Owner())
    bound = Bound(pending)
    given: list[tuple[Any, Any]] = []
    for way, loss, step in rows:
        if way == "flush":
            pending.shut()
            continue
        if way == "general":
            pending.append({"loss": loss, "step": step})
        elif way == "inherit":
            bound.append(loss=loss, step=step, _ts=-1)
        else:
            bound.append(loss=loss, step=step)
        given.append((loss, step))
    chain = pending.take()
    found = [fields for _, _, fields in rows_of(chain)]
    assert [repr((fields["loss"], fields["step"])) for fields in found] == [repr(pair) for pair in given]
    stamps = [ts for ts, _, _ in rows_of(chain)]
    assert max(stamps, default=float("-inf")) == pending.max_ts
    for block in chain:
        made = block.encode()
        if made is not None:
            assert_columns_of_its_points(made)
            assert made.lines(7) == encode_lines(enumerate(made.points(), 7))
            assert made.max_ts == made.points()[-1]["_ts"]
            assert made.first_ts == made.points()[0]["_ts"]


def test_rows_are_packed_until_a_value_is_of_another_type() -> None:
    """What the test above cannot see: that rows are packed at all, and when they are not any more."""
    pending = Pending(Owner())
    bound = Bound(pending)

    def codes(*others: tuple[Any, Any]) -> list[str]:
        for at in range(3):
            bound.append(loss=0.5 + at, step=at)
        for loss, step in others:
            bound.append(loss=loss, step=step)
        chain = pending.take()
        pending.replace(chain[-1], None)
        return [block.codes for block in chain]

    assert codes() == ["dq"]
    assert codes((float("nan"), -(2**63)), (-0.0, 2**63 - 1)) == ["dq"]
    assert codes((0.5, 2**63)) == ["dq", ""], "too large: rows of any kind behind it, until the flush"
    assert codes() == [""], "and no more packed ones of this track"
    assert bound.installed == 2
    other = Pending(Owner())
    bound = Bound(other)
    for loss in (1.0, 2, True):
        bound.append(loss=loss)
        other.shut()
    assert [block.codes for block in other.take()] == ["d", "q", ""], "behind a flush another type is as good"
    assert not other.uneven


@pytest.mark.parametrize("value", [True, None, "text", [0.5], 2**63, -(2**63) - 1])
def test_rows_with_anything_but_numbers_are_not_packed(value: Any) -> None:
    pending = Pending(Owner())
    pending.append({"loss": 0.5, "other": value})
    assert [block.codes for block in pending.take()] == [""]


def test_rows_of_ever_new_types_keep_nothing_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotpath, "_shapes", {})
    for number in range(hotpath.MOST_SHAPES + 100):
        bits = f"{number:011b}"
        Pending(Owner()).append({f"f{at}": 1 if bit == "1" else 0.5 for at, bit in enumerate(bits)})
    assert hotpath.row_packer.cache_info().currsize <= hotpath.MOST_SHAPES
    assert len(hotpath._shapes) <= hotpath.MOST_SHAPES


def test_rows_with_a_timestamp_of_their_own_are_not_packed() -> None:
    pending = Pending(Owner())
    bound = Bound(pending)
    bound.append(loss=0.5, _ts=1.0)
    bound.append(loss=0.5, _ts=2.0)
    assert [block.codes for block in pending.take()] == [""]


def test_packed_rows_take_less_memory_than_their_values_would() -> None:
    packed, loose = Pending(Owner()), Pending(Owner())
    loose.uneven.add("step")
    for pending in (packed, loose):
        for step in range(1000):
            pending.append({"loss": 0.5, "acc": 0.5, "step": step})
    (block,), (other,) = packed.take(), loose.take()
    assert (block.codes, other.codes) == ("ddq", "")
    assert block.nbytes < other.nbytes
    assert sum(map(sys.getsizeof, block.flat)) < block.nbytes
    rows, others = block.encode(), other.encode()
    assert rows is not None
    assert others is not None
    assert rows.nbytes == 1000 * 32
    assert [point | {"_ts": 0.0} for point in rows.points()] == [point | {"_ts": 0.0} for point in others.points()]


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("other", [b"01234567" * 2, "0123456789abcdef", 2.5, [[0.5, 1.5]], {"a": [0.5, 1.5]}])
def test_another_value_beside_packed_ones_is_kept_as_it_is(way: int, other: Any) -> None:
    pending = Pending(Owner())
    append = both_ways(pending)[way]
    for q in ([0.5, 1.5], [2.5, 3.5], other, [4.5, 5.5]):
        append(q=q)
    assert [fields["q"] for _, _, fields in rows_of(pending.take())] == [[0.5, 1.5], [2.5, 3.5], other, [4.5, 5.5]]


@pytest.mark.parametrize("way", [0, 1])
def test_a_block_is_found_with_its_first_row_or_not_at_all(way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out where the first row of a block is stored, and the next points go in all the same."""
    pending = Pending(Owner())
    append = both_ways(pending)[way]
    for step in range(3):
        append(q=[0.5], _ts=float(step))
    pending.shut()

    class Full(list[Any]):
        def extend(self, _: Any) -> None:
            raise MemoryError

    def starved(before: Any = None) -> Block:
        block = Block(before)
        block.flat = Full()
        return block

    monkeypatch.setattr("dreamlake.engine.pending.Block", starved)
    with pytest.raises(MemoryError):
        append(q=[0.5], _ts=3.0)
    monkeypatch.undo()
    append(q=[0.5], _ts=4.0)
    append(q=[0.5], _ts=5.0)
    assert [ts for ts, _, _ in rows_of(pending.take())] == [0.0, 1.0, 2.0, 4.0, 5.0]


def test_an_object_that_passes_for_a_float_is_refused_as_anywhere() -> None:
    class Pretender:
        __class__ = float  # type: ignore[assignment]

    pending = Pending(Owner())
    append = both_ways(pending)[1]
    append(q=[0.5, 1.5])
    append(q=[0.5, 1.5])
    with pytest.raises(TypeError):
        append(q=[0.5, Pretender()])
    assert len(rows_of(pending.take())) == 2


def test_names_of_fields_that_end_in_numbers_are_told_apart() -> None:
    pending = Pending(Owner())
    append = both_ways(pending)[1]
    point = {f"q{at}": [float(100 * at + item) for item in range(12)] for at in (1, 11, 1_1_1)}
    for _ in range(3):
        append(q=[0.5] * 12, **point)
    assert [fields for _, _, fields in rows_of(pending.take())] == [{"q": [0.5] * 12, **point}] * 3


def test_many_lists_in_one_point_go_the_general_way() -> None:
    for count in (hotpath.MOST_LISTS, hotpath.MOST_LISTS + 1):
        bound = Bound(Pending(Owner()))
        bound.append(**{f"f{at}": [1.0] for at in range(count)})
        assert bound.installed == (count <= hotpath.MOST_LISTS)


@pytest.mark.parametrize("kind", [tuple, list])
def test_items_of_lists_count_as_memory(kind: type) -> None:
    columns = [[kind(range(length)) for length in (0, 3, 5)]]
    empty = [[kind() for _ in range(3)]]
    held, nothing = (ColumnRows(("x",), each, [1.0, 2.0, 3.0], False).nbytes for each in (columns, empty))
    assert held - nothing == 8 * ITEM_BYTES
