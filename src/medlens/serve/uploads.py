"""The body of a request -> the files in it, in memory, counted while they arrive."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from medlens.serve.limits import MIB, Limits

# What multipart bodies hold beside the files: a few fields that nobody asked for.
MOST_FIELDS = 16


@dataclass(frozen=True)
class Upload:
    """A file as a client sent it.

    Args:
        name: What the client calls it; it is echoed, never opened and never logged.
        data: Its content.
    """

    name: str
    data: bytes


class _InMemory(MultiPartParser):
    """Starlette's parser, which otherwise writes files of more than 1 MB to the disk."""

    spool_max_size = sys.maxsize


async def read_uploads(request: Request, field: str, limits: Limits, most: int) -> list[Upload]:
    """Read the files of one field of a multipart body.

    Args:
        request: The request, its body unread.
        field: Name of the field.
        limits: Of bytes; the reading stops where they are passed, whatever the headers say.
        most: How many files there may be.

    Raises:
        HTTPException: 413, 415 or 422, with the reason.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, "Send the images as multipart/form-data.")
    parser = _InMemory(
        request.headers, _bounded(request, limits), max_files=most + 1, max_fields=MOST_FIELDS
    )
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


def _bounded(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    too_large = HTTPException(413, f"The request has more than {limits.body // MIB} MiB.")

    async def read() -> AsyncGenerator[bytes, None]:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limits.body:
            raise too_large
        count = 0
        async for chunk in request.stream():
            count += len(chunk)
            if count > limits.body:
                raise too_large
            yield chunk

    return read()


def multipart_schema(field: str, *, several: bool) -> dict[str, Any]:
    """The body as OpenAPI describes it."""
    file = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    value = {"type": "array", "items": file, "minItems": 1} if several else file
    schema = {"type": "object", "required": [field], "properties": {field: value}}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }
