"""What the server counts, for Prometheus, and what it logs of a request: never what is in it."""

from __future__ import annotations

import logging
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medlens.log import describe_failure
from medlens.serve.answers import refuse

LOG = logging.getLogger("medlens")
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
# What supervisors ask every few seconds.
QUIET = ("/health", "/ready", "/metrics")
# As web servers count a client that went away; no standard has a status for it.
CLIENT_GONE = 499
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "path")
        self.requests = Counter(
            "medlens_requests", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "medlens_request_seconds",
            "From the first byte to the end of the answer.",
            labels,
            registry=self.registry,
        )
        self.refused = Counter(
            "medlens_refused", "Requests refused.", ("reason",), registry=self.registry
        )
        self.images = Counter(
            "medlens_images", "Images answered.", ("outcome",), registry=self.registry
        )
        self.queue = Gauge(
            "medlens_queue_images", "Images under way, decoded or not.", registry=self.registry
        )
        self.batches = Histogram(
            "medlens_batch_images",
            "Images in a batch.",
            ("model",),
            buckets=BATCHES,
            registry=self.registry,
        )
        self.ready = Gauge(
            "medlens_ready", "Whether the classifier is loaded.", ("model",), registry=self.registry
        )


class Measured:
    """Counts and logs each request, by the route and not by the address that was asked for.

    What goes wrong inside is logged without the error's text, which might hold what was sent.

    Args:
        app: What is measured.
        metrics: Where it is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def send_measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_measured)
        except Exception as error:
            LOG.error("A request failed:\n%s", describe_failure(error))
            if not status:
                answer = refuse(500, "The server failed. This is our fault.")
                await answer(scope, receive, send_measured)
        finally:
            seconds = time.monotonic() - started
            self._note(scope, status, seconds)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = scope.get("route")
        path = str(getattr(route, "path", "other"))
        self._metrics.requests.labels(method, path, str(status)).inc()
        self._metrics.seconds.labels(method, path).observe(seconds)
        is_quiet = (path in QUIET and status == 200) or status == CLIENT_GONE
        level = logging.DEBUG if is_quiet else logging.INFO
        LOG.log(level, "%s %s %d %.0f ms", method, path, status, 1000 * seconds)
