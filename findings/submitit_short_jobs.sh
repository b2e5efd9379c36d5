#!/usr/bin/env bash
# submitit takes every preemption of a job of ten minutes or less for its time-out, also one in its first second.
#
# Behaviour: when SLURM sends the signal that announces the end of a job, submitit decides by the time that the job has run
#   whether that was a preemption or the time limit: the latter from min(80 % of the limit, the limit - 10 minutes) on.
#   For a limit of up to 10 minutes this is zero or less, so every preemption counts as a time-out: a function without a
#   method `checkpoint` is not requeued, and one with it uses up one of `slurm_max_num_timeout`.
# Versions: submitit 1.5.4.
# Wrong guess: a job that is preempted soon after its start is requeued, however short its time limit is.
# Matters to: people who give small jobs short limits, so that SLURM fits them into gaps of partitions that preempt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check submitit==1.5.4
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys

import submitit
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

logging.disable(logging.INFO)


def counts_as_time_out(minutes):
    """Whether a signal in the first second of a job counts as the end of its time."""
    submission = DelayedSubmission(print)
    submission.set_timeout(minutes, 3)
    return SignalHandler(SlurmJobEnvironment(), JobPaths(sys.argv[1]), submission).has_timed_out()


print(f"submitit {submitit.__version__}")
found = {minutes: counts_as_time_out(minutes) for minutes in (1, 5, 10, 11, 15, 60)}
for minutes, time_out in found.items():
    print(f"limit of {minutes} minutes, signal at once: {'time-out' if time_out else 'preemption'}")
sys.exit(0 if found == {1: True, 5: True, 10: True, 11: False, 15: False, 60: False} else "the behaviour has changed")
PYTHON
