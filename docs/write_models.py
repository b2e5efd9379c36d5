"""Writes docs/models.md from what the package knows of models: ``python docs/write_models.py``."""  # noqa: INP001  # no package

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anomalib.models
import yaml

from anomalib_tiled.ensemble.supported_models import reason_against, support_of

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

PAGE = Path(__file__).with_name("models.md")
TRIALS = yaml.safe_load((PAGE.parents[1] / "tests" / "commands" / "model_trials.yaml").read_text(encoding="utf-8"))

BEFORE = """\
# Models

Which models of anomalib 2.7 work with tiles, what they need, and how that was tried. The commands refuse the others
before they look for images, with the reason below.

<!-- Written by `python docs/write_models.py`; do not edit. -->

| model | with tiles | needs of tiles and settings | reads besides the images | tried how |
|---|---|---|---|---|
"""

AFTER = """
**Tried how:** an ensemble of two tile locations was fitted for one epoch on a few small images, tested, and loaded
again, with the arguments given. Scores were between 0 and 1, the same after loading, and the model's own
`load_from_checkpoint` opened the checkpoints. *Random* replaces a download: the model is the
real one, its pretrained weights are not. Nothing here says how well a model finds defects.

**Not in the table**, because not tried: whether a model works with other backbones, and how small tiles may be
before nothing is left of them in the deepest layers of a backbone. It shows when the first tile is trained.

**Frozen backbones** of [these models](predict.md#models-with-a-frozen-backbone) can be computed by
other engines than PyTorch.

## What is done for every model

- Resizing and cropping are removed from its pre-processing, and so is everything else that changes the size of a tile.
  The rest, such as normalization, stays.
- A model that asks for the size of its input, by an argument `image_size`, `input_size` or `input_shape` or through its
  pre-processor, is given that of a tile.
- Arguments that the model needs from the trainer, such as the number of epochs of a memory bank, override those of
  `trainer`.
- An anomaly map of another size is resized to the tile. Without a map, a tile's score fills the tile.

## A model of your own

Any `AnomalibModule` works by its class path, if Python finds the module:

```bash
PYTHONPATH=. anomalib tiled train --config folder.yaml --model my_package.MyModel --model.depth 3
```

It must have a `training_step`, and its `forward` must return an `InferenceBatch` with `pred_score` (one for each tile)
or `anomaly_map` (one for each tile, of any size), or with both. It is tried out after the first tile is trained.
A class made from one of anomalib's inherits its row of the table.

## Open a checkpoint without this package

`anomalib tiled export --ckpt_dir RUN --format checkpoints` writes a checkpoint of Lightning for each tile. Some models
have layers that depend on the size of their input; give them a pre-processor of the tile's size:

```python
from anomalib.models import Fastflow
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Resize

model = Fastflow.load_from_checkpoint(
    "results/Fastflow/parts/latest/export/checkpoints/r00_c00.ckpt", pre_processor=PreProcessor(Resize((256, 256)))
)
```
"""


def row(model_class: type[AnomalibModule]) -> str:
    """Write the row of a class."""
    if reason := reason_against(model_class):
        return f"| `{model_class.__name__}` | no: {reason} | | | |"
    support = support_of(model_class)
    rules = "; ".join(rule.text for rule in support.rules)
    tried = described(TRIALS[model_class.__name__])
    return f"| `{model_class.__name__}` | yes | {rules} | {support.needs} | {tried} |"


def described(trial: dict[str, Any]) -> str:
    """Say how a model was tried."""
    height, width = trial["tile_size"]
    given = trial.get("init_args", {}).items()
    arguments = ", ".join(f"`{name}: {json.dumps(value)}`".replace('"', "") for name, value in given)
    weights = f"random: {trial['substituted']}" if "substituted" in trial else "nothing downloaded"
    parts = [f"tiles of {height} x {width}", f"batches of {trial.get('train_batch_size', 4)}", arguments, weights]
    return "; ".join(filter(None, parts))


def page() -> str:
    """Write the page."""
    names = sorted(anomalib.models.__all__, key=str.lower)
    rows = [row(getattr(anomalib.models, name)) for name in names]
    return BEFORE + "\n".join(rows) + "\n" + AFTER


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
