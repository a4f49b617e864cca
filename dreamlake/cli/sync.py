"""``dreamlake sync``: upload what the replicas of runs lack."""

from __future__ import annotations

import threading

import click

from dreamlake.cli.completion import complete_folders
from dreamlake.cli.options import storage_options
from dreamlake.cli.places import Mistake, open_remote, place_of
from dreamlake.cli.text import clean, complain, say, size_text
from dreamlake.errors import DreamlakeError, LockTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dreamlake.engine.replica.push import Outcome
    from dreamlake.storage.remote import RemoteStore


#: After this many runs in a row of which none could be sent, the network is down: the others are not tried.
IN_A_ROW = 2


@click.command("sync", short_help="upload what the replica of a run lacks")
@click.argument("local", metavar="LOCAL", shell_complete=complete_folders)
@click.argument("remote", metavar="REMOTE")
@storage_options
def command(local: str, remote: str, storage_options: dict[str, Any] | None) -> int:
    """Upload what the replicas of runs lack: after a kill, a close without network, or for folders that never had one.
    It can be done again at any time, also while the run is written; only what is missing is sent.

    LOCAL is the folder of a run, of a workspace or of a whole lake, and REMOTE the URL of the lake's root there.

    The exit status is 1 when something is left, which is named.

    \b
    dreamlake sync .dreamlake s3://my-team/lake
    """
    from dreamlake.engine.replica.sync import sessions_below

    if "://" not in remote:
        raise Mistake(f"{remote} is no URL; name the root of a lake elsewhere, such as s3://bucket/prefix")
    if "://" in local:
        raise Mistake(f"{place_of(local)} is a URL; name the folder of a run, of a workspace or of a lake")
    runs = list(sessions_below(local))
    if not runs:
        raise Mistake(f"{local} holds no run; name the folder of a run, of a workspace or of a lake")
    store = open_remote(remote, storage_options)
    left = []
    in_a_row = 0
    for place, (folder, session) in enumerate(runs):
        try:
            outcome = _sync(folder, session, store)
        except (DreamlakeError, OSError) as error:
            complain(f"{store.describe(session)} is not up to date: {error}")
            is_complete, ended = False, not isinstance(error, LockTimeoutError)
        else:
            _tell(session, store.describe(session), outcome)
            is_complete, ended = outcome.complete, outcome.ended
        if not is_complete:
            left.append(session)
        in_a_row = in_a_row + 1 if ended else 0
        if in_a_row == IN_A_ROW:
            left += [session for _, session in runs[place + 1 :]]
            break
    if left and len(runs) > 1:
        complain(f"{len(left)} of {len(runs)} runs are not up to date: {', '.join(left)}")
    return 1 if left else 0


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


def _tell(session: str, place: str, outcome: Outcome) -> None:
    for conflict in outcome.conflicts:
        complain(conflict)
    for where, error in outcome.failures:
        complain(f"{session}: {where}: {error}")
    sent = f"{outcome.objects:,} {'object' if outcome.objects == 1 else 'objects'}, {size_text(outcome.bytes)}, sent"
    if outcome.complete:
        say(f"{clean(place)} is up to date: {sent}")
    else:
        rest = [f"{outcome.left:,} left"] if outcome.left or not outcome.conflicts else []
        if outcome.conflicts:
            count = len(outcome.conflicts)
            which = "1 track that another machine wrote is" if count == 1 else f"{count:,} tracks that others wrote are"
            rest.append(f"{which} kept here only")
        say(f"{clean(place)} is not up to date: {', '.join([sent, *rest])}")
