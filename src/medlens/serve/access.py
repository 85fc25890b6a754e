"""Who may ask the server, and what browsers may do with its answers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medlens.serve.answers import refuse

OPEN = ("/", "/health", "/ready")
OPEN_FOLDER = "/static/"
COOKIE = "medlens-documents"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Paths:
    """Which paths are treated in another way than all others.

    A browser that follows a link to a report cannot send the token; so who sent it once gets a
    cookie that is good for reading documents, and for nothing else.

    Args:
        is_open: Tells of a path whether it needs no token.
        is_document: Tells of a path whether the cookie is good for it.
        greeting: The path whose answer brings the cookie.
        cookie_path: Where browsers send it.
    """

    is_open: Callable[[str], bool]
    is_document: Callable[[str], bool]
    greeting: str
    cookie_path: str


def is_open(path: str) -> bool:
    """Whether a path needs no token: the page without any content, and what a supervisor asks."""
    return path in OPEN or path.startswith(OPEN_FOLDER)


SERVE_PATHS = Paths(is_open, lambda path: path.startswith("/models/"), "/models", "/models/")


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Args:
        hosts: Names by which the server may be called, in lower case and without port; None for
            any. A page of another site that has its own name point here (DNS rebinding) calls the
            server by that name.
        token: What a request has to bring; None for none.
        paths: What is treated in another way than all else.
    """

    hosts: frozenset[str] | None
    token: str | None
    paths: Paths = SERVE_PATHS

    @property
    def cookie(self) -> str:
        """What the cookie for documents holds; the token cannot be told from it."""
        return hmac.new((self.token or "").encode(), COOKIE.encode(), "sha256").hexdigest()

    @property
    def cookie_name(self) -> str:
        """The name of the cookie: browsers send those of all servers on this computer to each."""
        return f"{COOKIE}-{hashlib.sha256(self.cookie.encode()).hexdigest()[:8]}"


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is reached from this computer alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses what `Access` does not allow, and puts the security headers on every answer.

    Args:
        app: What is guarded.
        access: Who may ask.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        refused = self._refuse(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                access = self._access
                if access.token and not refused and scope["path"] == access.paths.greeting:
                    rules = f"Path={access.paths.cookie_path}; HttpOnly; SameSite=Strict"
                    headers["Set-Cookie"] = f"{access.cookie_name}={access.cookie}; {rules}"
            await send(message)

        await (refused or self._app)(scope, receive, send_guarded)

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._access.hosts is not None and host_name(host) not in self._access.hosts:
            return refuse(421, "This server is not called by that name; see --allowed-host.")
        if scope["method"] not in SAFE_METHODS and not _is_same_origin(headers, host):
            return refuse(403, "Requests from the pages of other sites are refused.")
        if self._access.token is not None and not self._may_pass(scope, headers):
            return refuse(
                401,
                "This server wants the header `Authorization: Bearer TOKEN`.",
                {"WWW-Authenticate": "Bearer"},
            )
        return None

    def _may_pass(self, scope: Scope, headers: Headers) -> bool:
        path: str = scope["path"]
        if self._access.paths.is_open(path):
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _are_equal(given.strip(), self._access.token or "")
        is_document = scope["method"] == "GET" and self._access.paths.is_document(path)
        cookie = cookie_parser(headers.get("cookie", "")).get(self._access.cookie_name, "")
        return is_document and _are_equal(cookie, self._access.cookie)


def host_name(host: str) -> str:
    """The name or address in a Host header, in lower case, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _are_equal(given: str, wanted: str) -> bool:
    """Compare secrets in a time that tells nothing of them."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _is_same_origin(headers: Headers, host: str) -> bool:
    """Whether a browser says that one of our own pages asks, or it is no browser."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        # No page can set this header, and it stays true behind a proxy that calls us by another
        # name. That our own name is not another site's, the check of the host has seen to.
        return site in ("none", "same-origin")
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
