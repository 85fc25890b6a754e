"""How much one request, and all requests together, may ask of the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds that keep the server responsive and its memory flat.

    Args:
        body: Bytes of one request.
        bodies: Bytes of all requests that are being read or wait for an answer.
        images: Images of one request.
        pixels: Width x height of one image.
        queue: Images of all requests that are under way.
        seconds: For a request to arrive, once more for its answer, and once more for the client to
            take what waits of that.
        decode_seconds: Of a processor, for making pixels of one file.
        connections: Open at a time, whether or not a request comes over them.
        head_seconds: For the head of a request to arrive.
        head: Bytes of the head of a request.
    """

    body: int = 100 * MIB
    bodies: int = 512 * MIB
    images: int = 64
    pixels: int = 40_000_000
    queue: int = 256
    seconds: float = 60.0
    decode_seconds: float = 6.0
    connections: int = 512
    head_seconds: float = 10.0
    head: int = 64 * KIB


class Full(Exception):  # noqa: N818 - it says what is the matter
    """There is no room left."""


class Room:
    """A number of things that all requests together may hold at a time.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be held."""
        return self.taken >= self._most

    def take(self, count: int) -> None:
        """Hold so many until `give_back`.

        Raises:
            Full: If fewer are left.
        """
        if self.taken + count > self._most:
            raise Full
        self.taken += count

    def give_back(self, count: int) -> None:
        """Let go of so many."""
        self.taken -= count

    @contextmanager
    def held(self, count: int) -> Iterator[None]:
        """Hold so many while the block runs.

        Raises:
            Full: If fewer are left.
        """
        self.take(count)
        try:
            yield
        finally:
            self.give_back(count)
