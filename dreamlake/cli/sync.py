"""``dreamlake sync``: upload what the replicas of runs lack."""

from __future__ import annotations

import argparse
import json
import threading

from dreamlake.cli.places import Mistake
from dreamlake.cli.text import complain, say, size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.engine.replica.push import Outcome
    from dreamlake.storage.remote import RemoteStore


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "sync",
        help="upload what the replica of a run lacks",
        description="Upload what the replicas of runs lack: after a kill, a close without network, or for folders that "
        "never had one. It can be done again at any time, also while the run is written; only what is missing is sent.",
    )
    parser.add_argument("local", metavar="LOCAL", help="the folder of a run, of a workspace or of a whole lake")
    parser.add_argument("remote", metavar="REMOTE", help="the URL of the lake's root there, such as s3://bucket/prefix")
    parser.add_argument(
        "--storage-options",
        metavar="JSON",
        default="{}",
        help="options of the filesystem there as JSON, or @FILE that holds it; by default S3 finds endpoint and "
        "credentials in the environment and in profiles",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Upload the runs below one folder."""
    from dreamlake.engine.replica.sync import sessions_below

    if "://" not in args.remote:
        raise Mistake(f"{args.remote} is no URL; name the root of a lake elsewhere, such as s3://bucket/prefix")
    runs = list(sessions_below(args.local))
    if not runs:
        raise Mistake(f"{args.local} holds no run; name the folder of a run, of a workspace or of a lake")
    from dreamlake.storage.remote import RemoteStore

    try:
        remote = RemoteStore(args.remote, _options(args.storage_options))
    except (ValueError, ImportError) as error:
        raise Mistake(str(error)) from None
    status = 0
    try:
        for folder, session in runs:
            outcome = _sync(folder, session, remote)
            status = max(status, _tell(session, remote.describe(session), outcome))
    finally:
        remote.close()
    return status


def _sync(folder: str, session: str, remote: RemoteStore) -> Outcome:
    """Upload one run, in a thread of its own, while this one shows how far it is."""
    from dreamlake.engine.replica.progress import Progress, watch
    from dreamlake.engine.replica.sync import sync_folder
    from dreamlake.engine.thread import Request

    progress, stopped = Progress(), threading.Event()
    request = Request(lambda: sync_folder(folder, session, remote, progress=progress, stop=stopped.is_set))
    thread = threading.Thread(target=request.run, name="dreamlake-sync", daemon=True)
    thread.start()
    try:
        watch(request, None, progress)
    except KeyboardInterrupt:
        stopped.set()
        request.wait(5.0)  # what is under way is noted as sent
        raise
    thread.join()
    if request.error is not None:
        raise request.error
    outcome: Outcome = request.result
    return outcome


def _tell(session: str, place: str, outcome: Outcome) -> int:
    for conflict in outcome.conflicts:
        complain(conflict)
    for where, error in outcome.failures:
        complain(f"{session}: {where}: {error}")
    sent = f"{outcome.objects:,} {'object' if outcome.objects == 1 else 'objects'}, {size_text(outcome.bytes)}, sent"
    if outcome.complete:
        say(f"{place} is up to date: {sent}")
        return 0
    say(f"{place} is not up to date: {sent}, {outcome.left:,} left")
    return 1


def _options(text: str) -> dict[str, Any]:
    try:
        if text.startswith("@"):
            with open(text[1:], encoding="utf-8") as file:
                text = file.read()
        options = json.loads(text)
    except OSError as error:
        raise Mistake(f"--storage-options: {error}") from None
    except ValueError:
        # Without the text, which may hold secrets.
        raise Mistake('--storage-options is a JSON object, such as {"profile": "team"}, or @FILE') from None
    if not isinstance(options, dict):
        raise Mistake('--storage-options is a JSON object, such as {"profile": "team"}')
    return options
