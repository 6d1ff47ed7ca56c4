"""The two questions, whatever broker asks."""

from unittest.mock import patch

from tests.brokers.http_auth.conftest import Front

from mqttprov.brokers.http_auth import desk as desk_module
from mqttprov.brokers.http_auth.desk import REFUSED_FOR_S, Desk, Refusal
from mqttprov.core.credentials import RESPONDER_LOGIN
from mqttprov.core.login import LoginAttempt, Principal, Role, identities_in
from mqttprov.core.routed import Guest, Service

GUEST_ID = "an-id-that-nobody-guesses-1"


async def login(desk: Desk, username: str | None, password: str | None = "", client_id: str = "c-1") -> object:
    """Ask who that is."""
    return await desk.authenticate(LoginAttempt(client_id, username, password), "192.0.2.1")


async def test_a_device_is_let_in_and_its_first_login_recorded(front: Front) -> None:
    """The answer comes after the commit that makes it active (P2, P5)."""
    token = await front.provision("gw-1")
    who = await login(front.desk, token)
    assert isinstance(who, Principal)
    assert (who.role, who.name) == (Role.DEVICE, "gw-1")
    row = next(front.reader.devices("gw-1"))
    assert (row.state, row.credential_status) == ("active", "active")


async def test_a_suspension_holds_from_the_next_question_on(front: Front) -> None:
    """Permissions are not remembered: neither a login nor what a session may do (P7)."""
    token = await front.provision("gw-1")
    assert isinstance(await login(front.desk, token), Principal)
    assert isinstance(front.desk.identify("c-1", token), Principal)
    front.suspend("gw-1")
    assert front.desk.identify("c-1", token) is None
    assert isinstance(await login(front.desk, token), Refusal)


async def test_a_refusal_is_remembered_for_seconds_only(front: Front) -> None:
    """Who asks again with the same is not looked up again; a device that is resumed waits that long at most (P9)."""
    token = await front.provision("gw-1")
    front.suspend("gw-1")
    assert isinstance(await login(front.desk, token), Refusal)
    front.resume("gw-1")
    with patch.object(front.responder, "login", side_effect=AssertionError("asked again")):
        assert isinstance(await login(front.desk, token), Refusal)
    front.offset_s = REFUSED_FOR_S
    assert isinstance(await login(front.desk, token), Principal)


async def test_a_refusal_is_remembered_for_that_attempt_alone(front: Front) -> None:
    """Another password is another attempt, and so is another client id (basic credentials may be bound to one)."""
    front.operator("ops")
    assert isinstance(await login(front.desk, "ops", "wrong"), Refusal)
    with patch.object(front.responder, "login", wraps=front.responder.login) as asked:
        await login(front.desk, "ops", "wrong again")
        await login(front.desk, "ops", "wrong", client_id="c-2")
    assert asked.call_count == 2


async def test_the_memories_are_bounded(front: Front) -> None:
    """However many strangers, devices and guests there are (P9)."""
    with patch.object(desk_module, "MAX_REFUSED", 5), patch.object(desk_module, "MAX_HELD", 5):
        for i in range(12):
            await login(front.desk, f"stranger-{i}")
            assert isinstance(await login(front.desk, "provision", client_id=f"{GUEST_ID}-{i}"), Guest)
            assert isinstance(await login(front.desk, await front.provision(f"gw-{i}"), client_id=f"c-{i}"), Principal)
    for memory in (front.desk._refused, front.desk._held, front.desk._sources):
        assert len(memory) <= 5


async def test_an_unavailable_store_is_not_remembered_as_a_refusal(front: Front) -> None:
    """The next attempt is decided anew."""
    token = await front.provision("gw-1")
    with patch.object(front.responder._pipeline, "submit", return_value=False):
        assert await login(front.desk, token) == Refusal("unavailable")
    assert isinstance(await login(front.desk, token), Principal)


async def test_after_a_restart_sessions_go_on(front: Front) -> None:
    """Who is behind a session is told by its user name; where that may be several, it has to log in again."""
    token = await front.provision("gw-1", token="a-token-or-a-user")
    assert token == "a-token-or-a-user"
    who = front.new_desk().identify("c-1", token)
    assert isinstance(who, Principal)
    assert who.name == "gw-1"
    password = front.operator("a-token-or-a-user")
    desk = front.new_desk()
    assert desk.identify("c-1", token) is None
    assert isinstance(await login(desk, token, password), Principal)
    who = desk.identify("c-1", token)
    assert isinstance(who, Principal)
    assert who.role is Role.OPERATOR


async def test_after_a_restart_a_session_is_known_from_its_next_topic_on(front: Front) -> None:
    """An operator's command ends it then, and its client id is nobody else's (P3, P7)."""
    token, other = await front.provision("gw-1"), await front.provision("gw-2")
    assert isinstance(await login(front.desk, token), Principal)
    desk = front.new_desk()
    assert isinstance(desk.identify("c-1", token), Principal)
    assert desk.client_ids_of(next(front.reader.devices("gw-1")).id) == ["c-1"]
    assert isinstance(await login(desk, other), Refusal)
    assert isinstance(desk.identify("c-1", token), Principal)


async def test_a_client_id_belongs_to_who_came_first(front: Front) -> None:
    """Until that one may not log in any more: the broker would hand over session and messages (P3)."""
    first, second = await front.provision("gw-1"), await front.provision("gw-2")
    assert isinstance(await login(front.desk, first), Principal)
    assert isinstance(await login(front.desk, second), Refusal)
    assert isinstance(await login(front.desk, "provision", client_id="c-1"), Refusal)
    front.suspend("gw-1")
    assert isinstance(await login(front.desk, second), Principal)
    assert front.desk.client_ids_of(next(front.reader.devices("gw-2")).id) == ["c-1"]


async def test_guests_need_an_unguessable_client_id(front: Front) -> None:
    """Also when the client id is what makes it one."""
    assert isinstance(await login(front.desk, "provision", None, GUEST_ID), Guest)
    assert isinstance(front.desk.identify(GUEST_ID, "provision"), Guest)
    assert front.desk.source_of(GUEST_ID) == "192.0.2.1"
    for username, client_id in (("provision", "short"), (None, "provision"), ("provision", "")):
        assert isinstance(await login(front.desk, username, None, client_id), Refusal)


async def test_a_guest_whom_nobody_would_answer_is_refused(front: Front) -> None:
    """It would wait for nothing; refused it comes again (P10). Nothing is remembered, and devices are let in."""
    token = await front.provision("gw-1")
    front.is_answered = False
    refused = await login(front.desk, "provision", None, GUEST_ID)
    assert isinstance(refused, Refusal)
    assert "nobody would answer" in refused.reason
    assert isinstance(await login(front.desk, token), Principal)
    front.is_answered = True
    assert isinstance(await login(front.desk, "provision", None, GUEST_ID), Guest)


async def test_the_responder_logs_in_with_what_only_the_state_knows(front: Front) -> None:
    """A device that took its name as token gets nowhere (P6)."""
    assert isinstance(await login(front.desk, RESPONDER_LOGIN, front.desk.password), Service)
    await front.provision("gw-1", token=RESPONDER_LOGIN)
    assert isinstance(await login(front.desk, RESPONDER_LOGIN, ""), Refusal)
    assert isinstance(await login(front.desk, RESPONDER_LOGIN, "\u00fc"), Refusal)


async def test_nobody_is_nobody(front: Front) -> None:
    """Neither unknown nor nameless."""
    assert isinstance(await login(front.desk, "stranger"), Refusal)
    assert isinstance(await login(front.desk, None, None), Refusal)
    assert front.desk.identify("c-1", "stranger") is None
    assert front.desk.identify("c-1", None) is None


async def test_an_operator_s_rights_end_with_the_password(front: Front) -> None:
    """A session under the old one may do nothing more, its client id is free, and it is known which are to be ended."""
    password = front.operator("ops")
    assert isinstance(await login(front.desk, "ops", password), Principal)
    renewed = front.administration.rotate_operator("ops")
    assert front.desk.identify("c-1", "ops") is None
    assert isinstance(await login(front.desk, "ops", password), Refusal)
    assert isinstance(await login(front.desk, "ops", renewed, "c-2"), Principal)
    assert isinstance(front.desk.identify("c-2", "ops"), Principal)
    event = list(front.reader.events())[-1]
    assert front.desk.client_ids_of(*identities_in(event)) == ["c-1", "c-2"]
    front.administration.remove_operator("ops")
    assert front.desk.identify("c-2", "ops") is None
