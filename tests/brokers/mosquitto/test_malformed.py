"""Proof of P9 on Mosquitto: all that is malformed for our own broker is refused here, too, and harms nobody else."""

from collections.abc import Callable

from tests.brokers.harness import ask
from tests.brokers.mosquitto.beside import Beside
from tests.brokers.test_malformed import BAD_PACKETS, BAD_REQUESTS, CONNECT, PUBLISH, refused_in_words, sources

__all__ = ["sources"]


async def test_all_malformed_requests_are_refused_in_words(beside: Beside, sources: Callable[[], str]) -> None:
    """Each gets a status and a text that quotes nothing; no device comes of any, and each session goes on (P9, P6)."""
    for kind in BAD_REQUESTS:
        session = await refused_in_words(beside, kind, sources())
        await session.ping()
        session.disconnect()
    assert list(beside.state.store.reader().devices()) == []
    assert (await beside.provision("next"))["status"] == "SUCCESS"
    assert beside.issued.secret not in beside.mosquitto.log.read_text()


async def test_bad_packets_harm_their_own_connection_only(beside: Beside) -> None:
    """Whatever becomes of it, another connection beside it and the next one are served, and nothing is made (P9)."""
    witness = await beside.session()
    for packet in BAD_PACKETS.values():
        bad = await beside.open(None)
        bad.send(packet)
        bad.end_of_input()
        await bad.wait_closed()
        await witness.ping()
    assert list(beside.state.store.reader().devices()) == []
    assert (await ask(witness, beside.payload("next")))["status"] == "SUCCESS"


async def test_a_connection_may_end_anywhere(beside: Beside) -> None:
    """Cut off behind each byte of CONNECT and a request, over and over under one client id (P9)."""
    whole = CONNECT + PUBLISH
    for end in range(1, len(whole)):
        bad = await beside.open(None)
        bad.send(whole[:end])
        bad.end_of_input()
        await bad.wait_closed()
    assert (await beside.provision("next", source="127.0.0.9"))["status"] == "SUCCESS"
