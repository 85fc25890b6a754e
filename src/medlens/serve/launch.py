"""From run folders to a running server, and back to none."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medlens.errors import MedlensError, in_words
from medlens.serve.child import SECONDS_TO_START, TOKEN_VARIABLE, ChildDied, ChildTooSlow
from medlens.serve.limits import Limits
from medlens.serve.run_zip import opened_run

if TYPE_CHECKING:
    from medlens.serve.access import Access

PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
SECONDS_TO_FINISH_MORE = 5


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Args:
        host: Address or name to listen on.
        port: 0 for any that is free.
        token: What requests have to bring; "" for none, or on other hosts than this computer's own
            for a new one.
        allowed_hosts: Further names by which the server may be called.
        limits: How much may be asked of it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def serve(runs: Sequence[Path], settings: Settings, say: Callable[[str], None]) -> None:
    """Serve the classifiers of runs until SIGTERM or Ctrl-C; what was taken is finished first.

    Args:
        runs: Run folders, classifier folders alone, or runs as .zip.
        settings: How to serve.
        say: Told where the server is, and its token.

    Raises:
        MedlensError: If a package is missing, a run has no whole classifier, the address cannot be
            used, or a process of the server does not start.
    """
    require_packages("serve")
    listener = listen(settings.host, settings.port)
    with listener, ExitStack() as opened:
        folders = [opened.enter_context(opened_run(run)) for run in runs]
        asyncio.run(_serve(name_runs(folders), settings, listener, say))


def name_runs(runs: Sequence[Path]) -> Mapping[str, Path]:
    """A name for each run folder: its own, with a number where it is taken."""
    named: dict[str, Path] = {}
    for run in runs:
        own = run.resolve().name
        name, number = own, 1
        while name in named:
            number += 1
            name = f"{own}-{number}"
        named[name] = run
    return named


async def _serve(
    runs: Mapping[str, Path],
    settings: Settings,
    listener: socket.socket,
    say: Callable[[str], None],
) -> None:
    import uvicorn

    from medlens.serve.connections import bounded_protocol
    from medlens.serve.metrics import Metrics
    from medlens.serve.server import create_app
    from medlens.serve.service import Service

    access = choose_access(settings, os.environ)
    if access.token and not given_token(settings, os.environ):
        say(f"Token: {access.token}")
    service = Service(runs, settings.limits, Metrics())
    try:
        await service.start()
        config = uvicorn.Config(
            create_app(service, access),
            http=bounded_protocol(settings.limits),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            # A request may arrive for the one half of it, and be answered for the other.
            timeout_graceful_shutdown=int(2 * settings.limits.seconds) + SECONDS_TO_FINISH_MORE,
        )
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        say(f"Serving {', '.join(runs)} at http://{shown}:{port} (Ctrl-C ends it)")
        say("Not a medical device.")
        # uvicorn raises the signal that ended it once more, when all is done.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await uvicorn.Server(config).serve([listener])
    except (ChildDied, ChildTooSlow) as error:
        raise _not_started(error) from None
    finally:
        await service.stop()


def _not_started(error: ChildDied | ChildTooSlow) -> MedlensError:
    """What to tell of a process that ends, or says nothing, while it starts."""
    got = f"nothing from it for {SECONDS_TO_START:g} s"
    if isinstance(error, ChildDied):
        status = error.status or 0
        got = f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
    return MedlensError(
        "A process of the server does not start.",
        got=got,
        expected="one process for each run, and one for each core that makes pixels of files",
        fix="Most often memory is short: serve fewer runs, or give the computer or the container "
        "more. Else `medlens predict RUN IMAGE` loads the same classifier and says what is wrong.",
    )


def choose_access(settings: Settings, environment: Mapping[str, str]) -> Access:
    """Who may ask: with a token, wherever other computers can reach the server.

    Args:
        settings: Its host, token and further names.
        environment: May hold the token.

    Raises:
        MedlensError: If the token is none that a request can bring.
    """
    from medlens.serve.access import Access, is_loopback

    token = given_token(settings, environment)
    is_own = is_loopback(settings.host)
    # By a further name a proxy on this computer brings the requests of other computers.
    if not token and not (is_own and all(map(is_loopback, settings.allowed_hosts))):
        token = secrets.token_urlsafe(32)
    # On other addresses nobody knows by which names it is called; there the token protects it.
    is_any = not is_own and not settings.allowed_hosts
    own = {"localhost", "127.0.0.1", "::1", settings.host.lower()}
    names = own | {name.lower() for name in settings.allowed_hosts}
    return Access(None if is_any else frozenset(names), token or None)


def given_token(settings: Settings, environment: Mapping[str, str]) -> str:
    """The token that the server was started with; "" for none.

    Args:
        settings: May hold it.
        environment: May hold it, with the end of line of the file that it was read from.

    Raises:
        MedlensError: If it is none that a request can bring.
    """
    given = settings.token or environment.get(TOKEN_VARIABLE, "")
    token = given.strip()
    if given and not (token and token.isascii() and token.isprintable()):
        raise MedlensError(
            "No request can bring this token.",
            got="characters that a header cannot hold" if token else "nothing but white space",
            expected="letters, digits and signs of ASCII",
            fix=f"Set --token or {TOKEN_VARIABLE} to a word such as "
            "`openssl rand -hex 24` makes, or to nothing.",
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address of this computer.

    Raises:
        MedlensError: If that cannot be.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise MedlensError(
            "The server cannot listen there.",
            got=f"{host}, port {port}: {in_words(error)}",
            expected="an address of this computer and a port that is free",
            fix="Name another --port, or end the program that uses this one.",
        ) from None


def require_packages(command: str) -> None:
    """Say what a command of the extra `serve` lacks.

    Raises:
        MedlensError: If a package is missing.
    """
    missing = [name for module, name in PACKAGES.items() if not importlib.util.find_spec(module)]
    if missing:
        raise MedlensError(
            f"`medlens {command}` needs packages that are not installed.",
            got=f"no {', '.join(missing)}",
            expected=", ".join(PACKAGES.values()),
            fix="pip install 'medlens[serve]'",
        )
