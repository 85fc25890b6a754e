"""The page of `medlens serve` for one run at a time, below an address of its own."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time

from starlette.responses import JSONResponse
from starlette.routing import Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from medlens.model.classifier_files import FACTS_FILE
from medlens.run_dir import RunDir
from medlens.serve.access import OPEN_FOLDER, Access, Guard, Paths
from medlens.serve.answers import refuse
from medlens.serve.launch import name_runs
from medlens.serve.limits import Limits
from medlens.serve.metrics import Metrics
from medlens.serve.server import create_routes
from medlens.serve.service import Service

TRY = "/try/"
# A classifier that nobody asks any more gives its memory back.
SECONDS_IDLE = 900.0
SECONDS_BETWEEN_LOOKS = 30.0
GONE = "This classifier is no longer open. Open it again from the page of its run."


class Trial:
    """An ASGI application that holds one classifier, or none.

    The address of a run is that of one classifier, so that a page that is still open never gets
    the answers of another run of the same name. It has a token of its own, which is good for
    nothing else on the server.

    Args:
        hosts: Names by which it may be called.
    """

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts
        self._token = ""
        self._lock = asyncio.Lock()
        self._key = ""
        self._service: Service | None = None
        self._routes: ASGIApp = _gone
        self._used = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self._used = time.monotonic()
        await self._routes(scope, receive, send)

    async def open(self, run: RunDir) -> tuple[str, str]:
        """Load the classifier of a run; the one before is let go.

        Returns:
            The address of its page, and the token that it asks for.

        Raises:
            MedlensError: If it cannot be loaded.
            ChildDied: If a process does not come up.
        """
        key = key_of(run)
        address = f"{TRY}{key}/"
        async with self._lock:
            self._used = time.monotonic()
            if key == self._key and self._service is not None and self._service.is_ready:
                return address, self._token
            await self._let_go()
            service = Service(name_runs([run.root]), Limits(), Metrics())
            try:
                await service.start()
            except BaseException:
                await service.stop()
                raise
            self._key, self._service, self._token = key, service, secrets.token_urlsafe(32)
            access = Access(self._hosts, self._token, _paths_below(address))
            guarded = Guard(create_routes(service), access)
            self._routes = Router([Mount(f"/{key}", app=guarded)], default=_gone)
        return address, self._token

    async def close_when_idle(self) -> None:
        """Let the classifier go when it was not asked for a while; never ends."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            if time.monotonic() - self._used > SECONDS_IDLE:
                await self.close()

    async def close(self) -> None:
        """Let the classifier go."""
        async with self._lock:
            await self._let_go()

    async def _let_go(self) -> None:
        service, self._service, self._routes = self._service, None, _gone
        if service is not None:
            await service.stop()


def key_of(run: RunDir) -> str:
    """A word for the classifier of a run, another one for each that ever had the run's name."""
    facts = run.classifier / FACTS_FILE
    found = (facts if facts.is_file() else run.classifier).stat()
    identity = f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}:{run.root}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _paths_below(address: str) -> Paths:
    """As those of `medlens serve`, which begin at "/"."""
    models = f"{address}models"
    static = address.rstrip("/") + OPEN_FOLDER
    return Paths(
        lambda path: path == address or path.startswith(static),
        lambda path: path.startswith(f"{models}/"),
        models,
        f"{models}/",
    )


async def _gone(scope: Scope, receive: Receive, send: Send) -> None:
    answer: JSONResponse = refuse(404, GONE)
    await answer(scope, receive, send)
