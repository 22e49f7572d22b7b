"""How long export and analysis take: ResNet-50, ViT-B/16 and BERT-base. Bar: 60 s for all three on two cores.

    python -m benchmarks.analysis_speed

Needs no data: speed does not depend on the weights. Seconds of the processor, of both cores together, tell on
a machine that is shared. Writes `results/analysis_speed.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo import Bert, Vit, resnet50
from trials.export import export_model
from trials.graph import Input
from trials.groups import analyse
from trials.proof import prove

RESULTS = Path(__file__).parent / "results" / "analysis_speed.json"
IMAGE = Input(name="x", shape=(3, 224, 224))
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Input]] = {
    "resnet50": (resnet50, IMAGE),
    "vit_b": (lambda: Vit(depth=12, width=768, heads=12), IMAGE),
    "bert_base": (
        lambda: Bert(depth=12, width=768, heads=12, tokens=128),
        Input(name="ids", shape=(128,), dtype="int64", high=30522),
    ),
}


def main() -> None:
    torch.set_num_threads(2)
    results: list[dict[str, Any]] = []
    for name, (make, item) in NETWORKS.items():
        model = make()
        start, processor = time.perf_counter(), time.process_time()
        bundle = export_model(model, [item])
        exported = time.perf_counter()
        coupling = analyse(bundle.graph)
        analysed = time.perf_counter()
        proved = prove(coupling, bundle.tensors)
        end = time.perf_counter()
        results.append(
            {
                "network": name,
                "export_s": round(exported - start, 2),
                "analyse_s": round(analysed - exported, 2),
                "prove_s": round(end - analysed, 2),
                "processor_s": round(time.process_time() - processor, 2),
                "groups": len(proved.groups),
                "refused": len(coupling.groups) - len(proved.groups),
            }
        )
        print(results[-1], flush=True)
    total = sum(result[f"{step}_s"] for result in results for step in ("export", "analyse", "prove"))
    print(f"all: {total:.1f} s")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
