"""What becomes of an operator's sessions when that login gets a new password or is removed, on running brokers."""

import asyncio
from collections.abc import Callable
from operator import methodcaller
from typing import TypeVar

from tests.brokers.harness import ACTOR, Running

from mqttprov.admin import Admin
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import ProtocolVersion, ReasonCode

R = TypeVar("R")
REFUSED = {ReasonCode.NOT_AUTHORIZED, ReasonCode.BAD_USER_NAME_OR_PASSWORD}


async def administer(broker: Running, action: Callable[[Admin], R]) -> R:
    """Do it as another process does, while the broker runs on."""

    def act() -> R:
        with Admin(broker.path, actor=ACTOR) as admin:
            return action(admin)

    return await asyncio.to_thread(act)


async def assert_that_logins_end(broker: Running) -> None:
    """Rotate and remove one login of either role, beside one that goes on."""
    other = await broker.operator()
    for role in OperatorRole:
        password = broker.admin.create_operator(role, role)
        sessions = [await broker.login(role, password, client_id=name) for name in ("a", "b")]
        renewed = await administer(broker, methodcaller("rotate_operator", role))
        for session in sessions:
            await session.wait_closed()
        assert await broker.refusal(role, password, version=ProtocolVersion.V311) in REFUSED
        session = await broker.login(role, renewed)
        await administer(broker, methodcaller("remove_operator", role))
        await session.wait_closed()
        assert await broker.refusal(role, renewed, version=ProtocolVersion.V311) in REFUSED
    await other.ping()


async def test_a_login_ends_with_its_sessions(broker: Running) -> None:
    """Old password and sessions have ended when the verb returns, nobody else's have (P7)."""
    await assert_that_logins_end(broker)


async def test_what_waits_for_who_is_away_ends_with_the_password(broker: Running) -> None:
    """Who knew the old password must not have left a subscription behind (P7)."""
    password = broker.admin.create_operator("ops", OperatorRole.OPERATOR)
    session = await broker.login("ops", password, client_id="a", keep_s=3600)
    session.disconnect()
    renewed = await administer(broker, lambda admin: admin.rotate_operator("ops"))
    session = await broker.login("ops", renewed, client_id="a", keep_s=3600, clean_start=False)
    assert not session.session_present
