"""``dreamlake demo``: trains a small model inside a session, then reads the run back and shows what it left."""

from __future__ import annotations

import glob
import os
import shlex
from pathlib import Path

import click

from dreamlake.cli.options import WholeNumber
from dreamlake.cli.places import DEFAULT_LAKE, Mistake, find_run
from dreamlake.cli.plot import Line, picture
from dreamlake.cli.show import track_rows, track_table
from dreamlake.cli.text import clean, say, size_text, table, terminal_columns, unicode_fits

TYPE_CHECKING = False
if TYPE_CHECKING:
    import polars as pl

    from dreamlake.demo import Epoch
    from dreamlake.lake import SessionView
    from dreamlake.session import Session

MISSING = 'the demo needs NumPy and scikit-learn: pip install "dreamlake[demo]"'
STEPS = 12_000
#: So many epochs are shown while training, the first and the last among them.
SHOWN_EPOCHS = 8
PLOT_HEIGHT = 15


@click.command("demo", short_help="train a small model, and look at what the run left")
@click.option("--path", default=DEFAULT_LAKE, metavar="LAKE", show_default=True, help="Where to write.")
@click.option(
    "--steps",
    type=WholeNumber(1),
    default=STEPS,
    show_default=True,
    help="Training steps, a point each on two tracks.",
)
@click.option("--no-plot", is_flag=True, help="Leave the plot of the loss out.")
def command(path: str, steps: int, no_plot: bool) -> int:
    """Train softmax regression on handwritten digits (scikit-learn's) in a session, then read it back.

    It needs an extra: pip install "dreamlake[demo]".
    """
    try:
        from dreamlake import demo

        digits = demo.load_digits()
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("numpy", "sklearn"):
            raise
        raise OSError(MISSING) from None
    try:
        session = demo.new_session(path)
    except ValueError as error:
        raise Mistake(str(error)) from None
    with session:
        _title(f"Training on {len(digits.train_images):,} handwritten digits: {steps:,} steps")
        epochs = -(-steps // (len(digits.train_images) // demo.BATCH_SIZE))
        demo.train(session, digits, steps, _Progress(epochs))
    show(session, plot=not no_plot)
    return 0


def show(session: Session, *, plot: bool) -> None:
    """Reopen the closed session as any reader would, and print what is in it."""
    view = find_run(session.path, "")
    _title(f"The run {view.workspace}/{view.name}, read back")
    say(track_table(track_rows(view)))
    if plot:
        _show_plot(view)
    _show_tiers(view)
    _show_query(view)
    _title("The files")
    say("\n".join(tree(Path(session.path))))
    _title("The same points with Polars alone, to paste into Python")
    say(snippet(view))
    _title("More")
    say(f"dreamlake show {view.workspace}/{view.name}{_path_option(session.path)}")
    say(f"dreamlake ls{_path_option(session.path).replace(' --path', '')}")


class _Progress:
    """Prints a row for some of the epochs, the last among them."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._every = max(1, epochs // SHOWN_EPOCHS)
        say("epoch  train loss  val. loss  val. accuracy")

    def __call__(self, epoch: Epoch) -> None:
        left = self._epochs - epoch.number
        if epoch.number == 1 or left == 0 or (epoch.number % self._every == 0 and left > self._every // 2):
            say(f"{epoch.number:5}  {epoch.train_loss:10.4f}  {epoch.val_loss:9.4f}  {epoch.val_accuracy:13.1%}")


# ------------------------------------------------------------------------------------------------ what is read


def _show_plot(view: SessionView) -> None:
    from dreamlake.demo import STEPS_TRACK

    track = view.track(STEPS_TRACK)
    width = min(terminal_columns(), 100)
    frame = track.downsample(4 * width, "loss")
    _title(f"Loss over {len(track):,} steps (logarithmic)")
    try:
        say(picture([Line("loss", frame["_index"].to_list(), frame["loss"].to_list())], width, PLOT_HEIGHT, log=True))
    except OSError as missing:  # the extra "demo" has it, and the rest of the demo does without
        say(str(missing))


def _show_tiers(view: SessionView) -> None:
    """A range of points that crosses the end of the last segment, where there is one."""
    from dreamlake.demo import STEPS_TRACK
    from dreamlake.format.layout import HOT_FILE

    track = view.track(STEPS_TRACK)
    stats = track.stats()
    rolled = stats["chunkedDataPoints"]
    if rolled and stats["bufferedDataPoints"]:
        _title("One read across the end of a segment")
        start = rolled - 3
    else:
        _title("The last points" if rolled else "The last points (at 10,000 they roll into a segment)")
        start = -6
    segment = os.path.basename(track.files()[-1]) if rolled else ""
    rows = [
        (str(point["index"]), f"{point['data']['loss']:.5f}", segment if point["index"] < rolled else HOT_FILE)
        for point in track.read(start, 6)["data"]
    ]
    say(table(("INDEX", "loss", "STORED IN"), rows, right=("INDEX", "loss")))


def _show_query(view: SessionView) -> None:
    """A lazy query: two tracks joined on their common timestamps, filtered."""
    _title("The five largest gradients of the second half, and the loss at that instant: two tracks joined on _ts")
    rows = [
        (str(row["step"]), str(row["epoch"]), f"{row['weights_norm']:.4f}", f"{row['loss']:.4f}")
        for row in largest_gradients(view).to_dicts()
    ]
    header = ("step", "epoch", "weights_norm", "loss")
    say(table(header, rows, right=header))


def largest_gradients(view: SessionView) -> pl.DataFrame:
    """The five points of the second half of ``train/gradient`` with the largest norm, joined to ``train/step``."""
    import polars as pl

    from dreamlake.demo import GRADIENT_TRACK, STEPS_TRACK

    steps = view.track(STEPS_TRACK)
    half = len(steps) // 2
    joined = steps.scan().filter(pl.col("_index") >= half).join(view.track(GRADIENT_TRACK).scan(), on="_ts")
    return joined.sort("weights_norm", descending=True).head(5).collect()


# ------------------------------------------------------------------------------------------------ what is on disk


def tree(root: Path) -> list[str]:
    """The folder `root` as lines of a tree, each file with its size; hidden files are left out."""
    branch, last, bar = ("├── ", "└── ", "│   ") if unicode_fits() else ("|-- ", "`-- ", "|   ")

    def below(folder: Path, indent: str) -> list[str]:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        lines = []
        for entry in entries:
            is_last = entry == entries[-1]
            size = "" if entry.is_dir() else f"  {size_text(entry.stat().st_size)}"
            lines.append(f"{indent}{last if is_last else branch}{clean(entry.name)}{'/' if entry.is_dir() else size}")
            if entry.is_dir():
                lines += below(entry, indent + ("    " if is_last else bar))
        return lines

    return [f"{clean(str(root))}/", *below(root, "")]


def snippet(view: SessionView) -> str:
    """Python that reads the points of ``train/step`` with Polars alone."""
    from dreamlake.demo import STEPS_TRACK

    track = view.track(STEPS_TRACK)
    # Square brackets and the like in a folder's name would be taken for a pattern.
    folder = glob.escape(Path(track._reader.place).as_posix())
    stats = track.stats()
    parts = {"segments": "segments = pl.read_parquet(track + '/*.parquet')"} if stats["totalChunks"] else {}
    if stats["bufferedDataPoints"]:
        parts["newest"] = "newest = pl.read_ndjson(track + '/data.jsonl').rename({'index': '_index'}).unnest('data')"
    lines = [
        "import polars as pl",
        f"track = {folder!r}",
        *parts.values(),
        f"points = pl.concat([{', '.join(parts)}], how='diagonal')",
        "print(points.group_by('epoch').agg(pl.col('loss').mean()).sort('epoch'))",
    ]
    return "\n".join(lines)


def _title(text: str) -> None:
    say(f"\n{text}\n{('─' if unicode_fits() else '-') * len(text)}")


def _path_option(session_path: str) -> str:
    root = os.path.dirname(os.path.dirname(session_path))
    return "" if root == os.path.abspath(DEFAULT_LAKE) else f" --path {shlex.quote(root)}"
