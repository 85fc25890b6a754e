"""The body of a request -> the files in it, in memory, counted while they arrive."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from medlens.serve.limits import MIB, Limits, Room

# What multipart bodies hold beside the files: a few fields that nobody asked for.
MOST_FIELDS = 16
# Any other is decoded by whichever codec of Python has that name: some fail in their own ways, and
# some take very long.
CHARSETS = (b"utf-8", b"us-ascii")


@dataclass(frozen=True)
class Upload:
    """A file as a client sent it.

    Args:
        name: What the client calls it; it is echoed, never opened and never logged.
        data: Its content.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class Received:
    """The files of a request, in memory.

    Args:
        files: In their order.
        give_back: To be called when nobody works on them any more; their bytes count until then.
    """

    files: list[Upload]
    give_back: Callable[[], None]


class _InMemory(MultiPartParser):
    """Starlette's parser, which otherwise writes files of more than 1 MB to the disk."""

    spool_max_size = sys.maxsize


async def receive(
    request: Request, field: str, *, most: int, limits: Limits, room: Room
) -> Received:
    """The files of one field of a multipart body.

    Args:
        request: The request, its body unread.
        field: Name of the field.
        most: How many files there may be.
        limits: Of bytes and time; the reading stops where they are passed, whatever headers say.
        room: Of the bytes of all requests.

    Raises:
        HTTPException: 408, 413, 415 or 422, with the reason.
        Full: If the requests under way hold too many bytes.
    """
    body = _Body(request, limits, room)
    try:
        async with asyncio.timeout(limits.seconds):
            return Received(await _parse(request, body, field, most), body.give_back)
    except TimeoutError:
        body.give_back()
        raise HTTPException(408, "The request took too long to arrive.") from None
    except BaseException:
        body.give_back()
        raise


async def _parse(request: Request, body: _Body, field: str, most: int) -> list[Upload]:
    # As Starlette's parser reads it below.
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind.strip() != b"multipart/form-data":
        raise HTTPException(415, "Send the images as multipart/form-data.")
    if options.get(b"charset", CHARSETS[0]).lower() not in CHARSETS:
        raise HTTPException(415, "Send multipart/form-data in UTF-8, or without a charset.")
    parser = _InMemory(request.headers, body.chunks(), max_files=most + 1, max_fields=MOST_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise HTTPException(413, f"There are more than {most} files.") from None
        raise HTTPException(422, "The multipart body is damaged.") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) > most:
            raise HTTPException(413, f"There are more than {most} files.")
        named = [one for one in form.getlist(field) if isinstance(one, UploadFile)]
        if not named:
            raise HTTPException(422, f"There is no file in the field {field}.")
        return [Upload(one.filename or "", await one.read()) for one in named]
    finally:
        await form.close()


class _Body:
    """The body of a request, counted while it arrives."""

    def __init__(self, request: Request, limits: Limits, room: Room) -> None:
        self._request = request
        self._most = limits.body
        self._room = room
        self._count = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Its parts, until it is larger than allowed."""
        length = self._request.headers.get("content-length", "")
        self._check(int(length) if length.isdecimal() else 0)
        async for chunk in self._request.stream():
            self._room.take(len(chunk))
            self._count += len(chunk)
            self._check(self._count)
            yield chunk

    def give_back(self) -> None:
        """Let its bytes go."""
        self._room.give_back(self._count)
        self._count = 0

    def _check(self, count: int) -> None:
        if count > self._most:
            raise HTTPException(413, f"The request has more than {self._most / MIB:g} MiB.")


def multipart_schema(field: str, *, several: bool) -> dict[str, Any]:
    """The body as OpenAPI describes it."""
    file = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    value = {"type": "array", "items": file, "minItems": 1} if several else file
    schema = {"type": "object", "required": [field], "properties": {field: value}}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }
