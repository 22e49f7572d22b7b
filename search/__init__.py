"""The product: search for pruned networks on the accuracy-latency front, and export them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load(folder: str | Path) -> nn.Module:
    """Load an exported network: a trainable module in eval mode. No code of yours or of the folder's runs.

    Raises:
        BundleError: a file is missing, damaged or not what the others say it is.
    """
    from search.export import load_network  # torch is imported where a network is, not with this package

    return load_network(Path(folder))


__all__ = ["load"]
