"""The forms in which brokers ask: EMQX and VerneMQ from their documentation, RabbitMQ as seen on the wire."""

import base64
import contextlib
import itertools
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.brokers.certificates import DeviceKey
from tests.brokers.http_auth.conftest import Front

from mqttprov.brokers.http_auth.adapter import Unreadable
from mqttprov.brokers.http_auth.app import ADAPTERS
from mqttprov.brokers.http_auth.emqx import EMQX
from mqttprov.brokers.http_auth.rabbitmq import RABBITMQ, topic_of
from mqttprov.brokers.http_auth.vernemq import VERNEMQ
from mqttprov.core.routed import Action

GUEST_ID = "an-id-that-nobody-guesses-1"


class TestEmqx:
    """EMQX 5."""

    async def ask(self, front: Front, path: str, **fields: Any) -> Any:
        """Ask with a rendered template."""
        return json.loads(await front.ask(EMQX, path, json.dumps(fields).encode()))

    async def test_a_login_comes_with_its_rights(self, front: Front) -> None:
        """The answer of EMQX 5.8: rules for the device's own topics, everything else denied."""
        token = await front.provision("gw-1")
        answer = await self.ask(
            front, "authenticate", clientid="c-1", username=token, password="", peerhost="192.0.2.9"
        )
        assert answer == {
            "result": "allow",
            "is_superuser": False,
            "acl": [
                {"permission": "allow", "action": "all", "topic": "v1/devices/gw-1/#"},
                {"permission": "deny", "action": "all", "topic": "#"},
            ],
        }

    async def test_what_a_client_did_not_send_is_absent(self, front: Front) -> None:
        """However the release of EMQX writes that."""
        for nothing in ("", "undefined", "null", None):
            answer = await self.ask(front, "authenticate", clientid="c-1", username=nothing, password=nothing)
            assert answer == {"result": "deny"}

    async def test_a_guest_has_the_vendors_topics_and_its_own(self, front: Front) -> None:
        """The mount point of the listener makes the first private; nobody hears them without it (P3)."""
        guest = {"clientid": GUEST_ID, "username": "provision"}
        answer = await self.ask(front, "authenticate", **guest, password="")
        topics = [(rule["permission"], rule["action"], rule["topic"]) for rule in answer["acl"]]
        assert topics == [
            ("allow", "publish", "/provision/request"),
            ("allow", "subscribe", "/provision/response"),
            ("allow", "publish", f"provision/request/{GUEST_ID}"),
            ("allow", "subscribe", f"provision/response/{GUEST_ID}"),
            ("deny", "all", "#"),
        ]
        for _, action, topic in topics[:4]:
            assert await self.ask(front, "authorize", **guest, action=action, topic=topic) == {"result": "allow"}
        for action, topic in (
            ("subscribe", "/provision/request"),
            ("subscribe", "#"),
            ("publish", "provision/audit/x"),
        ):
            assert await self.ask(front, "authorize", **guest, action=action, topic=topic) == {"result": "deny"}

    async def test_rights_end_with_the_state(self, front: Front) -> None:
        """EMQX before 5.8 asks for each topic (P7)."""
        token = await front.provision("gw-1")
        use = {"clientid": "c-1", "username": token, "action": "publish", "topic": "v1/devices/gw-1/telemetry"}
        assert await self.ask(front, "authorize", **use) == {"result": "allow"}
        front.suspend("gw-1")
        assert await self.ask(front, "authorize", **use) == {"result": "deny"}

    async def test_operators_are_asked_for_topic_by_topic(self, front: Front) -> None:
        """Their rights cannot be written as rules: everything but a little."""
        password = front.operator("ops")
        answer = await self.ask(front, "authenticate", clientid="desk", username="ops", password=password)
        assert answer == {"result": "allow", "is_superuser": False}
        for topic, result in (("v1/#", "allow"), ("#", "deny"), ("provision/response/#", "deny")):
            use = {"clientid": "desk", "username": "ops", "action": "subscribe", "topic": topic}
            assert await self.ask(front, "authorize", **use) == {"result": result}

    async def test_a_certificate_is_a_login(self, front: Front) -> None:
        """Where EMQX sends it; its session is known by the client id then."""
        pem = DeviceKey("gw-x509").certificate_pem
        await front.provision("gw-x509", credentialsType="X509_CERTIFICATE", hash=pem)
        answer = await self.ask(front, "authenticate", clientid="c-x", username="", password="", cert_pem=pem)
        assert answer["result"] == "allow"
        use = {"clientid": "c-x", "username": "undefined", "action": "publish", "topic": "v1/devices/gw-x509/telemetry"}
        assert await self.ask(front, "authorize", **use) == {"result": "allow"}


class TestVernemq:
    """VerneMQ's webhooks."""

    async def ask(self, front: Front, hook: str, **fields: Any) -> Any:
        """Ask as the webhook does."""
        return json.loads(await front.ask(VERNEMQ, "", json.dumps(fields).encode(), vernemq_hook=hook))

    async def register(self, front: Front, username: str | None, client_id: str = "c-1", version: str = "") -> Any:
        """Ask for a login."""
        fields = {"peer_addr": "192.0.2.9", "peer_port": 8888, "mountpoint": "", "clean_session": True}
        return await self.ask(
            front, f"auth_on_register{version}", **fields, username=username, client_id=client_id, password=None
        )

    @pytest.mark.parametrize("version", ["", "_m5"])
    async def test_a_device_works_under_the_topics_it_knows(self, front: Front, version: str) -> None:
        """`me` becomes its own topics, and its own topics `me`; a token needs no password."""
        token = await front.provision("gw-1")
        assert await self.register(front, token, version=version) == {"result": "ok"}
        session = {"username": token, "client_id": "c-1", "mountpoint": ""}
        answer = await self.ask(
            front,
            f"auth_on_publish{version}",
            **session,
            qos=1,
            topic="v1/devices/me/telemetry",
            payload="",
            retain=False,
        )
        assert answer == {"result": "ok", "modifiers": {"topic": "v1/devices/gw-1/telemetry"}}
        topics = [{"topic": "v1/devices/me/rpc/request/+", "qos": 1}, {"topic": "v1/devices/gw-2/#", "qos": 1}]
        answer = await self.ask(front, f"auth_on_subscribe{version}", **session, topics=topics)
        granted = [
            {"topic": "v1/devices/gw-1/rpc/request/+", "qos": 1},
            {"topic": "v1/devices/gw-2/#", "qos": 135 if version else 128},
        ]
        changed = {"topics": granted}
        assert answer == ({"result": "ok", "modifiers": changed} if version else {"result": "ok", **changed})
        answer = await self.ask(
            front, f"on_deliver{version}", **session, topic="v1/devices/gw-1/rpc/request/3", payload="e30="
        )
        assert answer == {"result": "ok", "modifiers": {"topic": "v1/devices/me/rpc/request/3"}}
        answer = await self.ask(front, f"on_unsubscribe{version}", **session, topics=["v1/devices/me/attributes"])
        changed = {"topics": ["v1/devices/gw-1/attributes"]}
        assert answer == ({"result": "ok", "modifiers": changed} if version else {"result": "ok", **changed})

    @pytest.mark.parametrize(("username", "client_id"), [("provision", ""), ("provision", "x"), (None, "provision")])
    async def test_every_provisioning_session_has_a_client_id_of_its_own(
        self, front: Front, username: str | None, client_id: str
    ) -> None:
        """So that unmodified clients, which share theirs, neither throw each other out nor read each other (P3)."""
        ids = set()
        for _ in range(2):
            answer = await self.register(front, username, client_id)
            assert answer["modifiers"]["mountpoint"] == ""
            ids.add(answer["modifiers"]["client_id"])
        assert len(ids) == 2
        mine = ids.pop()
        session = {"username": username, "client_id": mine}
        answer = await self.ask(front, "auth_on_publish", **session, topic="/provision/request")
        assert answer["modifiers"]["topic"] == f"provision/request/{mine}"
        topics = [{"topic": "/provision/response", "qos": 1}, {"topic": f"provision/response/{ids.pop()}", "qos": 1}]
        answer = await self.ask(front, "auth_on_subscribe", **session, topics=topics)
        assert (answer["topics"][0]["topic"], answer["topics"][0]["qos"]) == (f"provision/response/{mine}", 1)
        assert answer["topics"][1]["qos"] == 128
        answer = await self.ask(front, "on_deliver", **session, topic=f"provision/response/{mine}")
        assert answer["modifiers"] == {"topic": "/provision/response"}

    async def test_a_client_cannot_call_itself_a_guest(self, front: Front) -> None:
        """A device that took such a client id is a device, and does not read a guest's reply."""
        token = await front.provision("gw-1")
        guest = (await self.register(front, "provision"))["modifiers"]["client_id"]
        assert await self.register(front, token, "provisioning-mine") == {"result": "ok"}
        session = {"username": token, "client_id": "provisioning-mine"}
        topics = [{"topic": f"provision/response/{guest}", "qos": 1}]
        answer = await self.ask(front, "auth_on_subscribe", **session, topics=topics)
        assert answer == {"result": {"error": "not_allowed"}}

    async def test_strangers_are_refused(self, front: Front) -> None:
        """With VerneMQ's own word for it."""
        refused = {"result": {"error": "not_allowed"}}
        assert await self.register(front, "stranger") == refused
        assert await self.ask(front, "auth_on_publish", client_id="c", username="stranger", topic="x") == refused
        topics = [{"topic": "x", "qos": 0}]
        assert await self.ask(front, "auth_on_subscribe", client_id="c", username="s", topics=topics) == refused

    async def test_a_certificate_is_a_login(self, front: Front) -> None:
        """VerneMQ sends its DER in base64."""
        pem = DeviceKey("gw-x509").certificate_pem
        await front.provision("gw-x509", credentialsType="X509_CERTIFICATE", hash=pem)
        der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
        answer = await self.ask(
            front, "auth_on_register", client_id="c-x", username=None, client_cert=base64.b64encode(der).decode()
        )
        assert answer == {"result": "ok"}


class TestRabbitmq:
    """RabbitMQ's forms, as seen on the wire with 3.10."""

    async def ask(self, front: Front, path: str, **fields: str) -> bytes:
        """Ask with a form."""
        named = {name.replace("__", "."): value for name, value in fields.items()}
        return await front.ask(RABBITMQ, path, urlencode({"vhost": "/", **named}).encode())

    async def test_the_questions_of_one_session(self, front: Front) -> None:
        """Login, host, queue and exchange, topic."""
        token = await front.provision("gw-1")
        who = {"username": token, "client_id": "c-1"}
        assert await self.ask(front, "user", **who, password="") == b"allow"
        assert await self.ask(front, "vhost", **who, ip="127.0.0.1", tags="") == b"allow"
        for name, permission in (("mqtt-subscription-c-1qos1", "configure"), ("mqtt-subscription-c-1qos0", "read")):
            assert (
                await self.ask(front, "resource", **who, resource="queue", name=name, permission=permission) == b"allow"
            )
        exchange = {"resource": "exchange", "name": "amq.topic"}
        assert await self.ask(front, "resource", **who, **exchange, permission="write") == b"allow"
        topic = {
            "username": token, "resource": "topic", "name": "amq.topic", "variable_map__client_id": "c-1",
            "variable_map__username": token,
        }  # fmt: skip
        key = "v1.devices.gw-1.telemetry"
        assert await self.ask(front, "topic", **topic, permission="write", routing_key=key) == b"allow"
        assert await self.ask(front, "topic", **topic, permission="read", routing_key="v1.devices.#") == b"deny"

    async def test_what_is_not_mqtt_is_refused(self, front: Front) -> None:
        """AMQP and the management pages name no client id; another's queue, another host or exchange is not for it."""
        token = await front.provision("gw-1")
        who = {"username": token, "client_id": "c-1"}
        assert await self.ask(front, "user", username=token, password="") == b"deny"
        assert await self.ask(front, "user", **who, password="") == b"allow"
        assert await self.ask(front, "vhost", **{**who, "vhost": "other"}) == b"deny"
        queue = {"resource": "queue", "permission": "read"}
        assert await self.ask(front, "resource", **who, **queue, name="mqtt-subscription-c-2qos1") == b"deny"
        exchange = {"resource": "exchange", "name": "amq.topic", "permission": "configure"}
        assert await self.ask(front, "resource", **who, **exchange) == b"deny"
        assert await self.ask(front, "resource", **who, **{**exchange, "name": "amq.direct"}) == b"deny"
        assert await self.ask(front, "topic", **who, name="amq.direct", permission="read", routing_key="x") == b"deny"

    @pytest.mark.parametrize(
        ("key", "action", "topic"),
        [
            (".provision.request", Action.PUBLISH, "/provision/request"),
            ("v1.devices.a.b.t", Action.PUBLISH, "v1/devices/a/b/t"),
            ("v1.devices.*.t", Action.SUBSCRIBE, "v1/devices/+/t"),
            ("v1.devices.*.t", Action.PUBLISH, "v1/devices/*/t"),
            ("provision.response.#", Action.SUBSCRIBE, "provision/response/#"),
            ("v1.#.t", Action.SUBSCRIBE, None),
            ("a.b#", Action.SUBSCRIBE, None),
            ("a.+", Action.SUBSCRIBE, None),
            ("a.#", Action.PUBLISH, None),
        ],
    )
    def test_keys_are_read_as_rabbitmq_routes_them(self, key: str, action: Action, topic: str | None) -> None:
        """Both separators are one, and `*` is a wildcard whatever the client meant by it."""
        assert topic_of(key, action) == topic


UNREADABLE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"a",
    b"a=1&a=2",
    b"[" * 100_000,
    b'{"clientid":1,"client_id":[]}',
]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
async def test_what_cannot_be_read_is_refused(front: Front, name: str) -> None:
    """By an error that the application turns into the broker's refusal, or by the refusal itself (P9)."""
    adapter = ADAPTERS[name]
    places = itertools.product(("", "user", "topic", "authenticate", "authorize"), ("auth_on_register", "nonsense", ""))
    for (path, hook), body in itertools.product(places, UNREADABLE):
        with contextlib.suppress(Unreadable):
            assert await front.ask(adapter, path, body, vernemq_hook=hook) == adapter.deny
