from experiments.stopping.findings import WARNING as WARNING
from experiments.stopping.findings import anytime_findings as anytime_findings
from experiments.stopping.findings import discordance_by_task as discordance_by_task
from experiments.stopping.findings import stopped_findings as stopped_findings
from experiments.stopping.looks import Family as Family
from experiments.stopping.plan import Pilot as Pilot
