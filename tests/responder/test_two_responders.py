"""Several responders on one database: limits stay exact, the chain stays one (P1, P5)."""

import os
import threading
from pathlib import Path

from mqttprov.core.audit import verify
from mqttprov.core.requests import Granted, Outcome, ProvisionRequest
from mqttprov.responder.administration import TokenChange
from mqttprov.responder.jobs import BatchProcessor, Job, ProvisionJob
from mqttprov.responder.state_directory import StateDirectory, initialise

NOW_MS = 1_790_000_000_000
LIMIT = 37
RESPONDERS = 4
BATCHES = 10


def test_responders_that_share_a_database_never_exceed_a_limit_together(tmp_path: Path) -> None:
    """Each has its own connection; together they grant exactly the limit, and all outcomes are in one chain."""
    path = tmp_path / "state"
    initialise(path, actor="test", now_ms=lambda: NOW_MS, entropy=os.urandom)
    states = [StateDirectory(path) for _ in range(RESPONDERS)]
    administration = states[0].administration("test", lambda: NOW_MS, os.urandom)
    issued = administration.create_token("default", "shared", TokenChange(max_registrations=LIMIT))
    outcomes: list[Outcome] = []
    ready = threading.Barrier(RESPONDERS)

    def respond(number: int) -> None:
        processor = BatchProcessor(states[number].store, states[number].keys, now_ms=lambda: NOW_MS, entropy=os.urandom)
        ready.wait(30)
        for batch in range(BATCHES):
            jobs: list[Job] = [
                ProvisionJob(
                    ProvisionRequest(issued.key, issued.secret, f"gw-{number}-{batch}-{i}"), "", outcomes.append
                )
                for i in range(5)
            ]
            for done, outcome in processor.process(jobs):
                done(outcome)

    threads = [threading.Thread(target=respond, args=(number,)) for number in range(RESPONDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reader = states[0].store.reader()
    (token,) = reader.tokens(name_or_key=issued.key)
    granted = [outcome for outcome in outcomes if isinstance(outcome, Granted)]
    assert (len(outcomes), len(granted)) == (RESPONDERS * BATCHES * 5, LIMIT)
    assert (token.used, sum(1 for _ in reader.devices())) == (LIMIT, LIMIT)
    kinds = [str(event.kind) for event in reader.events()]
    assert (kinds.count("provisioned"), kinds.count("refused")) == (LIMIT, len(outcomes) - LIMIT)
    verify(reader.events())
    reader.close()
    for state in states:
        state.close()
