#!/usr/bin/env bash
# Ray prints what happens to its processes on standard output of the program, also with log_to_driver=False.
#
# Behaviour: a thread of `ray.init` prints messages of the cluster, such as "(raylet) A worker died or was killed ...", on
#   standard output. `log_to_driver=False` and `logging_level` do not concern it. If a whole node dies, it is 20 lines of
#   statistics. Only RAY_DEDUP_LOGS_SKIP_REGEX silences it, if it is set before `import ray`.
# Versions: ray 2.60.0.
# Wrong guess: with log_to_driver=False, only the program itself writes to its standard output.
# Matters to: programs whose standard output is read by other programs, and progress bars.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check ray==2.60.0
cat >"$folder/program.py" <<'PYTHON'
import os
import signal
import sys
import time

import ray

options = {"num_cpus": 1, "include_dashboard": False, "_temp_dir": sys.argv[1]}
ray.init(address="local", log_to_driver=False, logging_level="ERROR", object_store_memory=100_000_000, **options)


@ray.remote
class Actor:
    """A process that says its number."""

    def process(self):
        return os.getpid()

    def wait(self):
        time.sleep(600)


actor = Actor.remote()
process, waiting = ray.get(actor.process.remote()), actor.wait.remote()
time.sleep(1)
os.kill(process, signal.SIGKILL)
try:
    ray.get(waiting)
except ray.exceptions.RayError as error:
    print(type(error).__name__, file=sys.stderr)
time.sleep(3)
PYTHON
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled
usual=$("$folder/venv/bin/python" "$folder/program.py" "$folder/a")
silenced=$(RAY_DEDUP_LOGS_SKIP_REGEX=. "$folder/venv/bin/python" "$folder/program.py" "$folder/b")
echo "with log_to_driver=False: ${usual:-nothing}"
echo "with RAY_DEDUP_LOGS_SKIP_REGEX too: ${silenced:-nothing}"
[[ $usual == *"A worker died or was killed"* && -z $silenced ]] || { echo "the behaviour has changed" >&2; exit 1; }
