"""The scenarios that are shipped, their page and their schema."""

from pathlib import Path

import msgspec
import pytest
from tests.simulator.scenario.toml_text import TomlText

from mqttprov_simulator.scenario import reference
from mqttprov_simulator.scenario.drawing import plan_digest, planned_end_s
from mqttprov_simulator.scenario.model import KINDS, USES, Action, GatewayFault, Scenario, TargetFault
from mqttprov_simulator.scenario.outline import outline
from mqttprov_simulator.scenario.reading import load, read_scenario, shipped_names, source_of
from mqttprov_simulator.scenario.scaling import scaled

ROOT = Path(__file__).resolve().parents[3]
NAMES = [
    "broker-restart", "clone-attack", "cold-start", "factory-line", "leaked-token", "power-cut-region", "rotation-day",
    "slow-flash", "soak",
]  # fmt: skip


def test_all_are_there() -> None:
    """Those that the product names."""
    assert shipped_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_scenario_is_for_a_laptop_and_says_what_it_asks(name: str) -> None:
    """A question on top, a thousand or two gateways, a minute (ten for the soak), thresholds, and any size."""
    text, scenario = source_of(name), load(name)
    assert text.startswith("# ")
    assert text.splitlines()[0].endswith("?")
    assert scenario.name == name
    assert 1_000 <= scenario.gateways <= 2_000
    assert not any(character.isdigit() for character in scenario.summary)
    assert scenario.thresholds != msgspec.convert({}, type(scenario.thresholds))
    end_s = planned_end_s(scenario)
    assert end_s + scenario.stop.hold_s <= (600 if name == "soak" else 60)
    for gateways in (20, 60, 2_000):
        small = scaled(scenario, gateways)
        assert planned_end_s(small) < 1.5 * end_s + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_survives_being_sent(name: str) -> None:
    """Workers get it as JSON, results keep it, and it can be written as TOML again."""
    scenario = load(name)
    assert msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario) == scenario
    assert read_scenario(TomlText().document(msgspec.json.decode(msgspec.json.encode(scenario))).text, name) == scenario


def test_the_soak_knows_every_fault_of_gateways() -> None:
    """Rare faults of every kind."""
    (kind,) = [field.type for field in msgspec.structs.fields(GatewayFault) if field.name == "kind"]
    assert {fault.kind for fault in load("soak").faults} == set(kind.__args__)


def test_every_kind_is_described() -> None:
    """For the page and for errors: when it strikes, what it does, which keys it takes."""
    kinds: list[str] = []
    for model in (GatewayFault, TargetFault, Action):
        kinds += next(field.type for field in msgspec.structs.fields(model) if field.name == "kind").__args__
    assert sorted(kinds) == sorted(USES)
    assert set(KINDS) == set(kinds) - {kind for kind in kinds if kind.endswith(("-devices", "-token"))}


def test_the_page_is_that_of_the_model() -> None:
    """docs/reference/scenarios.md says what is read."""
    assert (ROOT / "docs/reference/scenarios.md").read_text("utf-8") == reference.page()


def test_the_schema_describes_what_is_shipped() -> None:
    """Every table of the model with its docstring, and no key that it does not know."""
    schema = msgspec.json.schema(Scenario)
    tables = schema["$defs"]
    assert all(table["additionalProperties"] is False for table in tables.values() if table["type"] == "object")
    assert all(table.get("description") for name, table in tables.items())


def test_an_outline_sums_a_plan_up() -> None:
    """Every gateway is in a row, every rule in a line."""
    scenario = load("power-cut-region")
    drawn = outline(scenario)
    assert sum(drawn.arrivals) == scenario.gateways == drawn.gateways
    assert drawn.seconds_per_row == 1
    assert [group.name for group in drawn.groups] == ["region", "new-region"]
    assert [(one.name, one.at_s) for one in drawn.happenings] == [
        ("power cut", 15.0),
        ("power cut while provisioning", 23.0),
        ("power cut before saving", None),
    ]
    met = [one.gateways or 0 for one in drawn.happenings]
    assert 400 < met[0] < 600
    assert 350 < met[1] < 450
    assert met[2] == 500
    assert drawn.digest == plan_digest(scenario)


def test_an_outline_of_hours_has_few_rows() -> None:
    """It fits on a screen."""
    drawn = outline(scaled(load("soak"), 60))
    assert len(drawn.arrivals) <= 30
    assert sum(drawn.arrivals) == 60
    actions = [one for one in drawn.happenings if one.kind == "rotate-devices"]
    assert [one.until_s for one in actions] == [460.0]
