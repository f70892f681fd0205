"""The last good state of a node: what its files held when the runtime last worked with what it had read at its start.

It is kept from the first change that the next start of the runtime will read until that start has gone well, and it is
what a rollback puts back.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from . import state as memory
from .host import Host, HostError
from .rollback import Restore
from .state import Good, State


def keep(host: Host, state: State, before: State, paths: Iterable[str]) -> State:
    """Copy what is at those paths now, unless they are in the last good state already; call before they are changed.

    ``before`` is the record of what is on the node now, ``state`` the one that is about to be saved; gives the latter
    with the last good state in it. Raises HostError; nothing but copies has been written then.
    """
    good = state.good or Good(
        revision=before.revision,
        originals=before.originals,
        directories=before.directories,
        edits=before.edits,
        start_settings=before.start_settings,
    )
    files = dict(good.files)
    for path in paths:
        if path not in files:
            files[path] = memory.keep_copy(host, path, memory.GOOD)
    return replace(state, good=replace(good, files=files))


def restores(state: State) -> tuple[Restore, ...]:
    """Give what a rollback has to do to the node's files; nothing where there is no last good state."""
    good = state.good
    if good is None:
        return ()
    ours = set(state.directories) - set(good.directories)
    return tuple(
        Restore(
            path=path,
            copy=item.copy,
            mode=item.mode,
            uid=item.uid,
            gid=item.gid,
            with_directory=not item.copy and path.rpartition("/")[0] in ours,
        )
        for path, item in good.files.items()
    )


def returned(state: State) -> State:
    """Give the record after a rollback: the last good state is on the node and in force."""
    good = state.good
    assert good is not None  # else there was nothing to go back to
    return replace(
        state,
        revision=good.revision,
        originals=good.originals,
        directories=state.directories,  # those that are not needed are removed by the next pass
        edits=good.edits,
        start_settings=good.start_settings,
        in_force=good.start_settings,
        good=None,
        writing="",
        writing_settings={},
    )


def check(host: Host, state: State) -> None:
    """Raise HostError (LastGoodLost) unless every copy that a rollback would need is there."""
    for path, item in state.good.files.items() if state.good is not None else ():
        if item.copy and host.read(item.copy) is None:
            text = f"{path}: the copy of its last good content, {item.copy}, is gone: the runtime is not restarted"
            raise HostError("LastGoodLost", text)
