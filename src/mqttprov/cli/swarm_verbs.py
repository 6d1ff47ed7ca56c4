"""`mqttprov swarm`: puts together what its modules can do. Nothing else lives here."""

from mqttprov.cli import swarm, swarm_reports, swarm_sweep

app = swarm.app
for verb in (swarm_reports.report, swarm_reports.compare, swarm_sweep.sweep):
    app.command()(verb)
