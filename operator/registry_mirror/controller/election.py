"""Leading by the Lease: wait for it, work while it is held, and stop before anybody else may work.

The times are client-go's. Who could not renew for RENEW_DEADLINE begins no write any more (``time_left``), and no write
takes longer than what is left of LEASE_SECONDS then. That two leaders cannot harm each other does not rest on these
times, though: see lease.py and writes.py. Who has lost the Lease ends its process: all that it knew is stale.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime

from ..api.errors import TransientError
from ..kube.client import Api
from ..kube.errors import ApiError
from ..kube.resources import LEASES
from . import lease
from .lease import RENEW_DEADLINE, RETRY, Json, Record, Step, Term

_log = logging.getLogger(__name__)

_LAST_TRY = 2.0
_TRY = 5.0
_CONFLICT = (404, 409)


class Ledger:
    """The NodeRegistryConfigs that are being written: for a controller that is alone, it is of use to nobody."""

    inherited: frozenset[str] = frozenset()

    async def announce(self, names: Collection[str]) -> None:
        """Make known whose writes are about to begin. Raises ApiError if nobody can be told: then do not write."""

    def settle(self, names: Collection[str]) -> None:
        """Say whose writes have not been answered; all others are over."""


class Election(Ledger):
    """One candidate. ``inherited`` names what the leader before us may still be writing, once we lead."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        identity: str,
        show: Callable[[bool], None] = lambda _leads: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the API server, whose calls must take no more than five seconds, the Lease's namespace, our identity,
        which no other may have at the same time, whom to tell whether we lead, and the clock (seconds).
        """
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._show = show
        self._clock = clock
        self._lock = asyncio.Lock()
        self._record: Record | None = None
        self._certain = False  # no write of the Lease is without an answer: it is as ``_record`` says, or another's
        self._seen = 0.0  # when this version of the Lease was first seen
        self._term: Term | None = None
        self._renewed = 0.0  # when the last write of the Lease began that succeeded
        self._tried = clock()
        self._writing: frozenset[str] = frozenset()
        self._known = False
        show(False)

    @property
    def waits(self) -> bool:
        """Whether another leads, and we would take over."""
        return self._known and self._term is None

    def time_left(self) -> float:
        """For how many seconds writes may still begin; 0 for who does not lead."""
        return max(0.0, self._renewed + RENEW_DEADLINE - self._clock()) if self._term is not None else 0.0

    def lag(self) -> float:
        """Since when nothing came of the Lease, not even an error (seconds)."""
        return max(0.0, self._clock() - self._tried)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait until we lead, then work; returns or raises as ``work`` does, and raises TransientError when the Lease
        is lost. ``work`` has ended by then, and the Lease is released unless it is somebody else's.
        """
        await self._acquire()
        self._show(True)
        tasks = [asyncio.ensure_future(work()), asyncio.ensure_future(self._renew())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._show(False)
            await self._release()
        for task in reversed(tasks):  # the loss of the Lease says more than what failed by it
            if not task.cancelled():
                task.result()

    # ---- the Lease -----------------------------------------------------------------------------------------------

    async def _acquire(self) -> None:
        holder = None
        while not await self._attempt():
            if self._record is not None and self._record.term.holder != holder:
                holder = self._record.term.holder
                _log.info("standing by: %s leads", holder or "nobody")
            await asyncio.sleep(RETRY)
        self.inherited = self._writing
        _log.info("leading as %s", self._identity)

    async def _renew(self) -> None:
        """Renew until the Lease is lost; raises TransientError then.

        A renewal that comes late, because the process was stopped or busy, is good if it succeeds: nobody else had the
        Lease since the last one, or its version would be another.
        """
        while True:
            await asyncio.sleep(RETRY)
            renewed = await self._attempt()
            if self._term is None:
                holder = self._record.term.holder if self._record is not None else ""
                raise TransientError("LeaseLost", f"the Lease {self._where} was lost: {holder or 'nobody'} leads now")
            if not renewed and self.time_left() <= 0:
                text = f"the Lease {self._where} could not be renewed for {RENEW_DEADLINE:.0f} s"
                raise TransientError("LeaseLost", f"{text}: another controller may lead now")

    async def _attempt(self) -> bool:
        """Try once to get or keep the Lease; gives whether we have it for certain."""
        limit = _TRY if self._term is None else max(_LAST_TRY, min(_TRY, self.time_left()))
        try:
            async with asyncio.timeout(limit), self._lock:
                return await self._once()
        except TimeoutError:
            _log.warning("Lease %s: no answer from the API server", self._where)
        except ApiError as error:
            _log.warning("%s", error.message)
        finally:
            self._tried = self._clock()
        return False

    async def _once(self) -> bool:
        if self._term is not None and self._record is not None and await self._keep(self._record):
            return True
        step = await self._read()
        if step == "lost":
            self._term = None
            return False
        if step == "wait":
            return False
        if step == "renew" and self._record is not None:
            return await self._keep(self._record)
        body = lease.taken(self._record, self._identity, _now())
        found = await self._write(body, create=step == "create")
        if found is None:
            return False
        self._term = found.term
        return True

    async def _read(self) -> Step:
        body = await self._api.get(LEASES, lease.NAME, self._namespace)
        self._known = True
        found = lease.read(body) if body is not None else None
        if found is None or self._record is None or found.version != self._record.version:
            self._seen = self._clock()
        self._record = found
        return lease.decide(found, self._identity, self._term, self._seen, self._clock())

    async def _keep(self, record: Record) -> bool:
        return await self._write(lease.renewed(record, _now(), self._writing)) is not None

    async def _write(self, body: Json, create: bool = False) -> Record | None:
        """Write the Lease if it is still the one that we know; gives it as it is then, or None if it was another."""
        started, self._certain = self._clock(), False
        try:
            answer = await self._api.put(LEASES, lease.NAME, body, self._namespace, create=create)
        except ApiError as error:
            if error.status not in _CONFLICT:
                raise
            return None
        found = self._record = lease.read(answer)
        self._certain, self._seen, self._renewed = True, started, started
        self._writing = found.writing if self._term is None else self._writing
        return found

    async def _release(self) -> None:
        """Let the next one lead at once. It finds in the Lease which of our writes were not answered."""
        async with self._lock:
            if self._term is None or self._record is None:
                return
            self._term = None
            with suppress(ApiError, TimeoutError):
                async with asyncio.timeout(_TRY):
                    await self._write(lease.released(self._record, _now(), self._writing))
                _log.info("the Lease is released")

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{lease.NAME}"

    # ---- the writes under way ------------------------------------------------------------------------------------

    async def announce(self, names: Collection[str]) -> None:
        """Have those names in the Lease, and by that make sure that we hold it. Raises ApiError if we do not."""
        async with self._lock:
            self._writing = lease.named(self._writing | set(names))
            if self._term is None or self._record is None:
                raise ApiError(0, "NotLeading", f"the Lease {self._where} is not ours")
            there = self._record.writing
            if self._certain and (self._writing <= there or lease.ALL in there):
                return
            if not await self._keep(self._record):
                raise ApiError(409, "NotLeading", f"the Lease {self._where} was changed by somebody else")

    def settle(self, names: Collection[str]) -> None:
        """Keep only those names; the Lease says so with its next renewal."""
        self._writing = lease.named(names)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
