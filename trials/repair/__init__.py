"""Least-squares repair: give the layers that read removed units weights that make up for the loss.

Two repairs, each of which prunes and returns what `prune` does. `fast` solves every layer on its own from
moments of the dense model's activations, gathered once per model: milliseconds a candidate. `sequential`
walks the pruned network in order and takes each regression's inputs from what is already repaired and its
target from the dense model, behind the residual sum where there is one, so that each layer also undoes the
error of those before it: seconds a candidate. In both, queries and keys that lose places are turned first, so
that the places left hold most of their scores. `importance` ranks units by the error that their loss causes.

Source: He et al., Channel Pruning for Accelerating Very Deep Neural Networks, arXiv 1707.06168, section 3.1
(layer-wise least squares) and 3.2.2 (targets behind the shortcut); ranking by error is second-order
elimination, Hassibi and Stork, Optimal Brain Surgeon, NIPS 1992, in blocks as in Frantar and Alistarh,
Optimal Brain Compression, arXiv 2208.11580, section 4.
"""

from trials.repair.calibration import EXAMPLES, POSITIONS, Calibration
from trials.repair.elimination import importance
from trials.repair.fast import fast
from trials.repair.layers import Layer, layers
from trials.repair.moments import Inputs, Moments, moments_of
from trials.repair.sequential import sequential

__all__ = [
    "EXAMPLES",
    "POSITIONS",
    "Calibration",
    "Inputs",
    "Layer",
    "Moments",
    "fast",
    "importance",
    "layers",
    "moments_of",
    "sequential",
]
