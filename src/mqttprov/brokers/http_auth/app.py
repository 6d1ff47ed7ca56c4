"""The HTTP side: which adapter is asked, by whom, and that every question gets an explicit verdict within bounds.

Brokers treat errors of HTTP differently (EMQX goes on to its next authenticator, mosquitto.md section 10.6), so the
status is 200 and the body says no. Who does not know the secret in the path is told no, too. Paths are never logged.
"""

import asyncio
import hmac
import logging
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mqttprov.brokers.http_auth.adapter import Adapter, Question, Unreadable
from mqttprov.brokers.http_auth.desk import Desk
from mqttprov.brokers.http_auth.emqx import EMQX
from mqttprov.brokers.http_auth.rabbitmq import RABBITMQ
from mqttprov.brokers.http_auth.vernemq import VERNEMQ

ADAPTERS: Final[dict[str, Adapter]] = {"emqx": EMQX, "vernemq": VERNEMQ, "rabbitmq": RABBITMQ}
MAX_BODY_BYTES: Final = 524_288  # VerneMQ sends the payload along unless it is told not to
BODY_TIMEOUT_S: Final = 5.0
MAX_AT_ONCE: Final = 256
_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_log = logging.getLogger(__name__)


class Desks:
    """Answers requests at `/SECRET/ADAPTER/...`."""

    def __init__(self, desk: Desk, secret: str) -> None:
        self._desk = desk
        self._secret = secret.encode()
        self._at_once = 0

    def application(self) -> Starlette:
        """Give the ASGI application."""
        return Starlette(routes=[Route("/{secret}/{adapter}{rest:path}", self._serve, methods=_METHODS)])

    async def _serve(self, request: Request) -> Response:
        adapter = ADAPTERS.get(request.path_params["adapter"].partition("/")[0])
        if adapter is None:
            return Response("there is no such adapter\n", 404, media_type="text/plain")
        verdict = adapter.deny
        try:
            verdict = await self._verdict(adapter, request)
        except Unreadable as error:
            _log.warning("a question of %s was refused: %s", request.path_params["adapter"], error)
        except (ClientDisconnect, TimeoutError):
            _log.info("a question was not asked to its end")
        except Exception:  # noqa: BLE001 - whatever it is, it must not open a door
            _log.exception("a question could not be answered and was refused")
        return Response(verdict, media_type=adapter.media_type, headers={"cache-control": "no-store"})

    async def _verdict(self, adapter: Adapter, request: Request) -> bytes:
        if not hmac.compare_digest(request.path_params["secret"].encode(), self._secret):
            raise Unreadable("it came without the secret in its path")
        if request.method != "POST":
            raise Unreadable(f"{request.method} puts passwords into places where they are logged; configure POST")
        if self._at_once >= MAX_AT_ONCE:
            raise Unreadable(f"{MAX_AT_ONCE} others are being answered")
        self._at_once += 1
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _body(request)
            path = request.path_params["rest"].strip("/")
            return await adapter.answer(self._desk, Question(path, dict(request.headers), body))
        finally:
            self._at_once -= 1


async def _body(request: Request) -> bytes:
    """Read the body. One that is too large is read to its end and forgotten: else the refusal would not get through."""
    body, length = bytearray(), 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= MAX_BODY_BYTES:
            body += chunk
    if length > MAX_BODY_BYTES:
        raise Unreadable(f"its body has more than {MAX_BODY_BYTES} bytes")
    return bytes(body)
