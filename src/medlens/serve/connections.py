"""What anybody may do with a connection before a token is asked for: how long, and how much."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from medlens.serve.limits import KIB, Limits

# So many bytes are looked at together: by fewer a head may be longer than its limit.
PIECE = 8 * KIB
# Requests that wait on one connection for the answer to another.
MOST_PIPELINED = 8


def bounded_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol of uvicorn's connections, bounded: nobody needs a token to open one.

    Args:
        limits: How many connections there may be, and how long and how large the head of a request
            may be, the first one of a connection and every further one; and how long an answer
            may wait to be taken.
    """

    class Bounded(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _taking: asyncio.TimerHandle | None = None
        # Bytes since the last ones of a body, or since the end of a head or of a request.
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.transport.abort()
            else:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._stop_taking()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            for start in range(0, len(data), PIECE):
                piece = data[start : start + PIECE]
                self._head += len(piece)
                super().data_received(piece)
                if self._head > limits.head:
                    self.send_400_response("The head of the request is too large.")
                if self.transport.is_closing():
                    return

        def on_headers_complete(self) -> None:
            self._head = 0
            super().on_headers_complete()
            if len(self.pipeline) > MOST_PIPELINED:
                self.transport.abort()

        def on_body(self, body: bytes) -> None:
            self._head = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._head = 0
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._await_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._taking = self.loop.call_later(limits.seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._stop_taking()
            super().resume_writing()
            self._await_head()

        def _stop_taking(self) -> None:
            if self._taking is not None:
                self._taking.cancel()

        def _await_head(self) -> None:
            self._stop_waiting()
            self._deadline = self.loop.call_later(limits.head_seconds, self._close_if_idle)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()

        def _close_if_idle(self) -> None:
            # A request that has come whole or in part has its own limit of time, and so has an
            # answer that is not taken.
            is_answered = self.cycle is None or self.cycle.response_complete
            if is_answered and not self.flow.write_paused:
                self.transport.abort()

    return Bounded
