#!/usr/bin/env bash
# Lightning's MLFlowLogger cannot be made without arguments with MLflow 3: its default, a folder, is refused by MLflow.
#
# Behaviour: MLFlowLogger() of Lightning writes to file:./mlruns. Client and store of MLflow 3.17 refuse folders with an
#   MlflowException, "in maintenance mode", already when the logger is made. MLFLOW_ALLOW_FILE_STORE=true lets them.
#   The data base that the message advises, sqlite:///..., is refused as well where only mlflow-skinny is installed,
#   though Lightning's documentation offers mlflow-skinny as equal.
# Versions: lightning 2.6.6, mlflow-skinny 3.17.2.
# Wrong guess: a logger with a default folder works offline without settings; or a warning is all that "maintenance" means.
# Matters to: who runs Lightning or anomalib with MLflow on one machine, without a server.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check lightning==2.6.6 mlflow-skinny==3.17.2
cat > "$folder/try.py" <<'PYTHON'
import sys

from lightning.pytorch.loggers import MLFlowLogger


def made(**arguments):
    """Make a logger, log a number, and give what happens."""
    try:
        MLFlowLogger(**arguments).log_metrics({"AUROC": 0.9})
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition('.')[0][:90]}"
    return "works"


name, address = sys.argv[1:]
print(f"{name}: {made() if address == 'default' else made(tracking_uri=address)}")
PYTHON
cd "$folder"
unset MLFLOW_ALLOW_FILE_STORE MLFLOW_TRACKING_URI
run() { "$folder/venv/bin/python" -W ignore "$folder/try.py" "$@" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }; }
{
  run "no arguments" default
  run "sqlite with mlflow-skinny" "sqlite:///$folder/mlflow.db"
  MLFLOW_ALLOW_FILE_STORE=true run "allowed by the environment" default
} | tee "$folder/found"
grep -q "^no arguments: MlflowException: The filesystem tracking backend" "$folder/found"
grep -q "^sqlite with mlflow-skinny: UnsupportedModelRegistryStoreURIException" "$folder/found"
grep -q "^allowed by the environment: works" "$folder/found"
