"""Measure well-known networks on this machine into a profile that is shipped with prunefront.

    python -m benchmarks.ship_profile --device epyc-avx512 [--network resnet18 …] [--runtime onnxruntime]
                                      [--precision fp32] [--threads 1] [--passes 3]

Networks are those of `benchmarks.zoo`; measuring goes on where it was cut short, in `runs/`. A profile whose
predictions of held-out networks are off by more than `WORST` on average is not shipped: quieten the machine.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.zoo import ZOO
from search.devices import SHIPPED
from search.growth import profile_device
from search.place import Place
from search.progress import Bars
from trials.export import export_model

WORST = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", required=True, help="board, runtime, precision: what users will call it")
    parser.add_argument("--network", choices=ZOO, nargs="+", default=[*ZOO])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    asked = {key: getattr(options, key) for key in ("runtime", "precision", "batch", "threads")}
    folder, worst = Place(Path("runs"), "").devices, 0.0
    for name in options.network:
        with TemporaryDirectory() as parent, Bars(Console()) as bars:
            bundle = Path(parent) / name
            export_model(ZOO[name].build(), [ZOO[name].input]).write(bundle)
            found = profile_device(bundle, options.device, folder, asked, options.passes, bars)
        proof = found["validation"]
        worst = max(worst, proof["mean_error"])
        print(
            f"{name}: {found['added']} kernels more; of {proof['networks']} networks held out MAPE "
            f"{proof['mean_error']:.1%} (floor {proof['floor']:.1%}), within 10 % {proof['within_10']:.0%}, "
            f"Spearman {proof['spearman']:.3f}, bars hold {proof['covered']:.0%}",
            flush=True,
        )
    if worst > WORST:
        sys.exit(f"not shipped: a mean error of {worst:.1%} is above {WORST:.0%}; measure on a quiet machine")
    shutil.copyfile(folder / f"{options.device}.parquet", SHIPPED / f"{options.device}.parquet")
    print(f"shipped as {options.device}")


if __name__ == "__main__":
    main()
