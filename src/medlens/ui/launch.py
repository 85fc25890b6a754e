"""From a folder to the page in a browser; what was begun there goes on when this ends."""

from __future__ import annotations

import asyncio
import html
import os
import secrets
import signal
import socket
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medlens.config import UiOptions
from medlens.environment import cache_folder
from medlens.errors import MedlensError
from medlens.serve.launch import listen, require_packages
from medlens.serve.limits import Limits
from medlens.ui.choices import is_run

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HOST = "127.0.0.1"
HOSTS = frozenset({"localhost", HOST})
SECONDS_TO_FINISH = 5
SECONDS_BETWEEN_LOOKS = 0.05


def run_ui(options: UiOptions, say: Callable[[str], None]) -> None:
    """Show the page until SIGTERM or Ctrl-C.

    Args:
        options: Of the command.
        say: Told where the page is.

    Raises:
        MedlensError: If a package is missing, or the root or the port cannot be used.
    """
    require_packages("ui")
    root = Path(options.root)
    if not options.root or not root.is_dir():
        raise MedlensError(
            "`medlens ui` needs a folder that it may see.",
            got="no such folder" if options.root else "no --root",
            expected="a folder with data in it or below it; runs are made there as well",
            fix="medlens ui --root DIR",
            names=[options.root] if options.root else [],
        )
    _require_no_run(root)
    app = _make_app(root.resolve(), options, token := secrets.token_urlsafe(32))
    listener = listen(HOST, options.port)
    with listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
        say(f"The page is at {address}")
        say("Ctrl-C ends it; what is at work goes on. Not a medical device.")
        with tempfile.TemporaryDirectory(prefix="medlens-", dir=_place_for_browsers()) as folder:

            def show() -> None:
                if not options.no_browser and not _open_browser(Path(folder), address):
                    say("No browser could be opened. Open the address above in one.")

            asyncio.run(_serve(app, listener, show))


def _require_no_run(root: Path) -> None:
    """Stop where renaming or deleting a run would be about the root itself."""
    if is_run(root):
        raise MedlensError(
            "The folder given with --root is a run itself.",
            got="a folder with the results of a run",
            expected="a folder with data in it or below it; runs are made there as well",
            fix="Name the folder that the run lies in.",
            names=[str(root)],
        )


def _make_app(root: Path, options: UiOptions, token: str) -> ASGIApp:
    from medlens.ui.root import Root
    from medlens.ui.server import Place, create_app

    cache = cache_folder(options.cache).resolve()
    asked = options.cache if options.cache == "auto" else str(cache)
    return create_app(Place(Root(root), asked, cache), token, HOSTS)


async def _serve(app: ASGIApp, listener: socket.socket, show: Callable[[], None]) -> None:
    import uvicorn

    from medlens.serve.connections import bounded_protocol

    config = uvicorn.Config(
        app,
        http=bounded_protocol(Limits()),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    # uvicorn raises the signal that ended it once more, when all is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(config)

    async def show_when_ready() -> None:
        while not server.started:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        await asyncio.to_thread(show)

    showing = asyncio.create_task(show_when_ready())
    await server.serve([listener])
    showing.cancel()


def _place_for_browsers() -> Path | None:
    """Where browsers can read a file: one that is packed as a snap sees nothing of /tmp."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() fails where nobody has one
    return Path(home) if os.access(home, os.W_OK) else None


def _open_browser(folder: Path, address: str) -> bool:
    """Open the browser, by a file that this user alone can read and that leads to the address.

    On a command line all users of the computer could see the token.

    Returns:
        Whether a browser was found.
    """
    page = folder / "open.html"
    page.write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(address)}">',
        encoding="utf-8",
    )
    return webbrowser.open(page.as_uri())
