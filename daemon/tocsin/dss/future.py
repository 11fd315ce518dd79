"""Futures: DSS's long tasks, running scenarios among them."""

from typing import TYPE_CHECKING, Any

from tocsin.dss import wire
from tocsin.dss.errors import DSSError
from tocsin.dss.waits import within
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient


class DSSFuture:
    """A handle on a long task."""

    def __init__(self, client: "DSSClient", job_id: str, state: Raw | None = None) -> None:
        self.client = client
        self.job_id = job_id
        self.state: Raw = state or {}
        self._peeked = True

    async def peek_state(self) -> Raw:
        """The state without the result."""
        self.state = await self.client.perform(wire.peek_future(self.job_id, peek=True))
        self._peeked = True
        return self.state

    async def get_state(self) -> Raw:
        """The state with the result, if there is one. DSS may hand a result out only once."""
        self.state = await self.client.perform(wire.get_future(self.job_id, peek=False))
        self._peeked = False
        return self.state

    async def has_result(self) -> bool:
        if not self.state.get("hasResult"):
            await self.peek_state()
        return bool(self.state.get("hasResult"))

    async def get_result(self) -> Any:
        """Raises ``ValueError`` if there is none yet."""
        if self._peeked or not self.state.get("hasResult"):
            await self.get_state()
        if not self.state.get("hasResult"):
            raise ValueError(f"future {self.job_id} has no result yet")
        return self.state.get("result")

    async def wait_for_result(self, *, timeout: float | None = None) -> Any:
        """Raises ``DSSWaitTimeout``, and ``DSSError`` if the task ended without a result."""
        async with within(timeout, f"the result of future {self.job_id}"):
            await self.client.waits.until(("future", self.job_id), self.peek_state, self._ended)
        return await self.get_result()

    def _ended(self, state: Raw) -> Raw | None:
        if state.get("hasResult"):
            return state
        if state.get("aborted") or state.get("alive") is False:
            raise DSSError(f"future {self.job_id} ended without a result", operation="peek_future")
        return None

    async def abort(self) -> None:
        """Ask DSS to stop the task; for a running scenario this aborts the run."""
        await self.client.perform(wire.abort_future(self.job_id))
