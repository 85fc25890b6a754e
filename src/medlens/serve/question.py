"""What a process of the server is asked: it waits, it is at work, it has come to its end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from medlens.serve.child import Answer, NotAvailable


def _new_future() -> asyncio.Future[Answer]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class Question:
    """A question to a child process, and whoever waits for its answer.

    Args:
        head: What is asked.
        data: Bytes that go with it.
    """

    head: dict[str, Any]
    data: bytes
    _answer: asyncio.Future[Answer] = field(default_factory=_new_future)
    _end: asyncio.Event = field(default_factory=asyncio.Event)
    _is_taken: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self._answer.done()

    async def answer(self) -> Answer:
        """Wait for the answer.

        Cancelled, it ends at once where the question still waits, and its bytes go; else only when
        no process works on it any more. So what it holds of any room is held as long as is true.

        Raises:
            NotAvailable: If it was refused.
        """
        try:
            return await self._answer
        except asyncio.CancelledError:
            if self._is_taken:
                await self._end.wait()
            self.data = b""
            raise

    def take(self) -> bool:
        """Begin to work on it; whether somebody still waits for the answer."""
        self._is_taken = self.is_wanted
        return self._is_taken

    def give(self, answer: Answer) -> None:
        """Hand the answer to whoever waits."""
        if self.is_wanted:
            self._answer.set_result(answer)

    def refuse(self) -> None:
        """Tell whoever waits that there will be no answer."""
        if self.is_wanted:
            self._answer.set_exception(NotAvailable())

    def end(self) -> None:
        """Nothing works on it any more."""
        self._end.set()
