from experiments.running.pilot import time_run as time_run
from experiments.running.preflight import Preflight as Preflight
from experiments.running.run import check_limit as check_limit
from experiments.running.run import expand_checked as expand_checked
from experiments.running.run_session import CostLog as CostLog
from experiments.running.run_session import sum_counters as sum_counters
from experiments.running.runner import Runner as Runner
