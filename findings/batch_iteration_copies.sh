#!/usr/bin/env bash
# To iterate over a batch of anomalib, or to read its items, copies every tensor of the batch, each time.
#
# Behaviour: ImageBatch.items, which iteration uses, makes a dictionary of the batch by dataclasses.asdict, which copies all
#   tensors deeply, and then gives views of the copies. So one loop over a batch holds it twice, loops in two threads three
#   times, a change of an item does not reach the batch, and one item that is kept keeps a copy of the whole batch.
# Versions: anomalib 2.7.0, torch 2.14.1.
# Wrong guess: the items are views, as those of a tensor are.
# Matters to: callbacks, visualizers and metrics that loop over a batch of large images, each for itself. Indexing the
#   fields (batch.image[0]) copies nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check anomalib==2.7.0 torch==2.14.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from anomalib.data import ImageBatch

print(f"anomalib {version('anomalib')}, torch {torch.__version__}")
batch = ImageBatch(image=torch.rand(2, 3, 64, 64))
first, again = next(iter(batch)), next(iter(batch))
copied = first.image.data_ptr() != batch.image.data_ptr()
twice = first.image.data_ptr() != again.image.data_ptr()
kept = first.image.untyped_storage().nbytes() // (3 * 64 * 64 * 4)
first.image.zero_()
reaches = bool((batch.image[0] == 0).all())
indexed = batch.image[0].data_ptr() == batch.image.data_ptr()
print(f"an item is a copy: {copied}; a second loop copies again: {twice}; one item keeps {kept} images in memory")
print(f"a change of the item reaches the batch: {reaches}; batch.image[0] is a view: {indexed}")
expected = (True, True, 2, False, True)
sys.exit(0 if (copied, twice, kept, reaches, indexed) == expected else "the behaviour has changed")
PYTHON
