"""Where a job's examples come from: five sources, read into plain arrays, in three splits.

Arrays stay as they were stored (images as uint8) and are made into normalised float32 batch by batch, so that
50 000 CIFAR images take 150 MB and every worker on a machine can share one read-only copy.

The train split fits and fine-tunes, the validation split steers the search, the test split is read once per
finalist. A trained network has memorised its training set, so a validation split carved from it flatters
every candidate: `Splits.carved` says so, and whoever scores then weighs the divergence from the dense model.
"""

from trials.data.loading import load
from trials.data.spec import DataSpec, Normalize, SplitSpec
from trials.data.splits import Array, Labels, Split, Splits, stratified

__all__ = [
    "Array",
    "DataSpec",
    "Labels",
    "Normalize",
    "Split",
    "SplitSpec",
    "Splits",
    "load",
    "stratified",
]
