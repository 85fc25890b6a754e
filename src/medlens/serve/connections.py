"""Connections that bring no request: how many there may be, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from medlens.serve.limits import Limits


def bounded_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol of uvicorn's connections, bounded: nobody needs a token to open one.

    Args:
        limits: How many connections there may be, and how long the head of a request may take, the
            first one of a connection and every further one.
    """

    class Bounded(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.transport.abort()
            else:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._await_head()

        def _await_head(self) -> None:
            self._stop_waiting()
            self._deadline = self.loop.call_later(limits.head_seconds, self._close_if_idle)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()

        def _close_if_idle(self) -> None:
            # A request that has come whole or in part has its own limit of time.
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Bounded
