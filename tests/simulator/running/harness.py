"""A worker that runs on the test's own loop; what it says, for tests."""

import time
from typing import Any

from mqttprov_simulator.running.values import Assignment, Endpoint, FromWorker, Moment, Ready, Recording, TokenKey
from mqttprov_simulator.running.worker import Orders, work
from mqttprov_simulator.scenario.model import Constant, Gateway, Group, Scenario, Stop

IMPATIENT = Gateway(backoff_base_s=0.05, backoff_cap_s=0.2, reply_timeout_s=2)
LINE = Group(name="line", gateways=5, arrivals=Constant(rate_per_s=200))


class Told:
    """All that a worker said."""

    def __init__(self, said: list[FromWorker]) -> None:
        self.end = said[-1]
        self.moments = [one for one in said if isinstance(one, Moment)]
        self.broken = [broken for moment in self.moments for broken in moment.broken]
        self.told = [told for moment in self.moments for told in moment.told]
        self.seconds = [second for moment in self.moments for second in moment.closed]
        self.seconds += [self.moments[-1].second] if self.moments else []

    @property
    def recording(self) -> Recording:
        """The end, if it is a good one."""
        assert isinstance(self.end, Recording), self.end
        return self.end

    @property
    def promises(self) -> set[str]:
        """Those that were broken."""
        return {broken.promise for broken in self.broken}


def plan(*groups: Group, **values: Any) -> Scenario:
    """A scenario of gateways in a hurry."""
    stop = Stop(hold_s=0.1, timeout_s=20)
    return Scenario(**{"name": "test", "summary": "", "groups": groups, "gateway": IMPATIENT, "stop": stop, **values})


async def run(scenario: Scenario, endpoints: tuple[Endpoint, ...], **values: Any) -> Told:
    """Let one worker run it, beginning once it is ready."""
    said: list[FromWorker] = []
    orders = Orders()

    def tell(value: FromWorker) -> None:
        said.append(value)
        if isinstance(value, Ready):
            orders.begin.set_result(time.time())

    tokens = {f"{group.profile}/{group.token}": TokenKey("key", "secret") for group in scenario.groups}
    given = {"worker": 0, "workers": 1, "starts_at": 0.0, "tokens": tokens, **values}
    await work(Assignment(scenario=scenario, endpoints=endpoints, **given), tell, orders)
    return Told(said)
