"""`mqttprov swarm`: puts together what its modules can do. Nothing else lives here."""

from mqttprov.cli import swarm, swarm_plans, swarm_reports, swarm_sweep

app = swarm.app
app.command("list")(swarm_plans.list_)
for verb in (
    swarm_plans.show,
    swarm_plans.plan,
    swarm_plans.schema,
    swarm_reports.report,
    swarm_reports.compare,
    swarm_sweep.sweep,
):
    app.command()(verb)
