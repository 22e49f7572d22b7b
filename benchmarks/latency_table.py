"""How well a latency table predicts networks that it was not calibrated on.

    python -m benchmarks.latency_table [--network resnet|mobilenet] [--rounds 10] [--candidates 15]

Measures this machine's CPU under ONNX Runtime, one thread: the planned operators, calibration networks, and
held-out candidates of random widths (whole steps of the device, and any width at all), in the same rounds.
Prints, for each kind of candidate: mean absolute percentage error, shares within 5 and 10 %, Spearman's rank
correlation, how many error bars hold, and the floor: how far two halves of the same rounds are apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwprofiles import MeasuredNetwork, OpSpec, Profile, Rounds, open_runtime
from latency_models import LatencyTable, NetworkModel, build_profile, plan

CALIBRATION_NETWORKS = 10


class Network:
    """An ONNX network under construction, and the operators it runs."""

    def __init__(self, channels: int, size: int) -> None:
        self.value, self.channels, self.size = "image", channels, size
        self.operators: list[OpSpec] = []
        self._image = (channels, size, size)
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def conv(
        self,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        depthwise: bool = False,
        add: str = "",
        act: str = "relu",
    ) -> str:
        """Convolution, then the sum with `add`, then `act` ("relu", "hardtanh" or none)."""
        before, after, pad = self.size, -(-self.size // stride), kernel // 2
        fan_in = 1 if depthwise else self.channels
        scale = (2 / (fan_in * kernel * kernel)) ** 0.5
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        group = self.channels if depthwise else 1
        weight, bias = self._weight(out, fan_in, kernel, kernel, scale=scale), self._weight(out)
        self._node("Conv", self.value, weight, bias, **window, group=group)
        if add:
            self._node("Add", self.value, add)
        if act == "relu":
            self._node("Relu", self.value)
        elif act:
            low, high = (self._constant(np.array(limit, np.float32)) for limit in (0, 6))
            self._node("Clip", self.value, low, high)
        self.operators.append(
            OpSpec(
                kind="depthwise_conv2d" if depthwise else "conv2d",
                in_channels=self.channels,
                out_channels=out,
                in_size=(before, before),
                out_size=(after, after),
                kernel=(kernel, kernel),
                stride=(stride, stride),
                padding=(pad,) * 4,
                dilation=(1, 1),
                groups=0 if depthwise else 1,
                fused=("batch_norm", *(["add"] if add else []), *([act] if act else [])),
            )
        )
        self.channels, self.size = out, after
        return self.value

    def classify(self, classes: int) -> None:
        channels, size = self.channels, (self.size, self.size)
        self._node("GlobalAveragePool", self.value)
        self._node("Flatten", self.value)
        self._node("Gemm", self.value, self._weight(channels, classes), self._weight(classes))
        pool = OpSpec(
            kind="avg_pool2d",
            in_channels=channels,
            out_channels=channels,
            in_size=size,
            out_size=(1, 1),
            kernel=size,
            stride=size,
            padding=(0,) * 4,
        )
        linear = OpSpec(kind="linear", in_channels=channels, out_channels=classes, in_size=(1,))
        self.operators += [pool, linear]

    def save(self, path: Path) -> None:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *self._image])
        logits = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "network", [image], [logits], self._weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)

    def _node(self, op: str, *inputs: str, **attributes: object) -> None:
        self.value = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [self.value], **attributes))

    def _weight(self, *shape: int, scale: float = 0.1) -> str:
        return self._constant(scale * self._random.standard_normal(shape, dtype=np.float32))

    def _constant(self, values: NDArray[np.float32]) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name


def resnet(widths: Sequence[int]) -> Network:
    """Two stages of three residual blocks of 64 and 128 channels; widths: two trunks, then six insides."""
    trunk1, trunk2, *inside = widths
    network = Network(3, 16)
    network.conv(trunk1)
    for block, width in enumerate(inside):
        trunk, stride = (trunk1, 1) if block < 3 else (trunk2, 2 if block == 3 else 1)
        entry = network.value, network.channels, network.size
        shortcut = network.value
        if block == 3:
            shortcut = network.conv(trunk, kernel=1, stride=2, act="")
            network.value, network.channels, network.size = entry
        network.conv(width, stride=stride)
        network.conv(trunk, add=shortcut)
    network.classify(10)
    return network


def mobilenet(widths: Sequence[int]) -> Network:
    """Inverted residuals at 32x32 to 8x8; widths are (trunks at each size, then the expansions)."""
    trunks, expansions = widths[:3], iter(widths[3:])
    network = Network(3, 64)
    network.conv(32, stride=2, act="hardtanh")
    for stage, trunk in enumerate(trunks):
        for repeat in range(2):
            shortcut = network.value if repeat else ""
            width = next(expansions)
            network.conv(width, kernel=1, act="hardtanh")
            stride = 2 if stage and not repeat else 1
            network.conv(width, stride=stride, depthwise=True, act="hardtanh")
            network.conv(trunk, kernel=1, add=shortcut, act="")
    network.conv(320, kernel=1, act="hardtanh")
    network.classify(10)
    return network


NETWORKS: dict[str, tuple[Callable[[Sequence[int]], Network], tuple[int, ...]]] = {
    "resnet": (resnet, (64, 128, *[64] * 3, *[128] * 3)),
    "mobilenet": (mobilenet, (32, 64, 96, 192, 192, 192, 384, 384, 576)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=15, help="held out, of each kind")
    arguments = parser.parse_args()
    for name in arguments.network or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            evaluate(name, Path(folder), arguments.passes, arguments.rounds, arguments.candidates)


def evaluate(name: str, folder: Path, passes: int, rounds: int, candidates: int) -> None:
    build, dense = NETWORKS[name]
    runtime = open_runtime("onnxruntime")
    device = runtime.describe(name="this-cpu", batch=1, threads=1)
    random = np.random.default_rng(0)
    stepped = [
        _random_widths(dense, random, device.channel_step) for _ in range(CALIBRATION_NETWORKS + candidates)
    ]
    ragged = [_random_widths(dense, random, 1) for _ in range(candidates)]
    models = []
    for index, widths in enumerate([dense, *stepped, *ragged]):
        network = build(widths)
        network.save(folder / f"{index}.onnx")
        models.append(
            NetworkModel(
                name=str(index), operators=tuple(network.operators), onnx_path=folder / f"{index}.onnx"
            )
        )
    narrowest = build([-(-width // 4) for width in dense]).operators
    specs = plan(models[0].operators, narrowest, runtime)

    start = time.perf_counter()
    profile = build_profile(device, runtime, specs, models, passes=passes, rounds=rounds)
    measuring_s = time.perf_counter() - start
    fitted, held_out = CALIBRATION_NETWORKS + 1, profile.networks[CALIBRATION_NETWORKS + 1 :]
    table = LatencyTable.from_profile(
        Profile(
            device=device,
            operators=profile.operators,
            networks=profile.networks[:fitted],
            created=profile.created,
        ),
        runtime,
    )
    alone_s = sum(rounds.times_ms.mean() for rounds in profile.operators.values()) / 1e3 * 4 * passes * rounds
    print(
        f"\n{name} on {device.board}: {len(specs)} operators, {len(models)} networks in {measuring_s:.0f} s"
    )
    print(f"  operators alone {alone_s:.0f} s, {table.calibration}")
    for title, networks in (("whole steps", held_out[:candidates]), ("any width", held_out[candidates:])):
        print(f"  {title:12s} {_scores(table, networks)}")
    print(f"  {_speed(table, models)}")


def _random_widths(dense: Sequence[int], random: np.random.Generator, step: int) -> list[int]:
    """Widths from a quarter of dense to all of it; the whole network's level is random too."""
    wanted = np.array(dense) * np.clip(
        random.uniform(0.35, 0.95) + random.uniform(-0.35, 0.35, len(dense)), 0.25, 1
    )
    return np.clip(np.round(wanted / step) * step, -(-np.array(dense) // 4), dense).astype(int).tolist()


def _scores(table: LatencyTable, networks: Sequence[MeasuredNetwork]) -> str:
    predictions = [_predict(table, net.operators) for net in networks]
    predicted, error = np.array(predictions).T
    measured = np.array([net.rounds.summary().latency_ms for net in networks])
    off = predicted / measured - 1
    floor = np.mean([_between_halves(net.rounds) for net in networks])
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, measured)]
    holds = np.abs(predicted - measured) <= error
    return (
        f"MAPE {np.abs(off).mean():5.1%} (floor {floor:.1%}, bias {off.mean():+5.1%})  "
        f"within 5 % {np.mean(np.abs(off) <= 0.05):4.0%}, 10 % {np.mean(np.abs(off) <= 0.1):4.0%}  "
        f"Spearman {np.corrcoef(ranks)[0, 1]:.3f}  bars that hold {holds.mean():4.0%}  "
        f"({measured.min():.2f} to {measured.max():.2f} ms)"
    )


def _predict(table: LatencyTable, operators: Sequence[OpSpec]) -> tuple[float, float]:
    channels = np.array([[(spec.in_channels, spec.out_channels) for spec in operators]])
    prediction = table.predict(operators, channels[..., 0], channels[..., 1])
    return float(prediction.latency_ms[0]), float(prediction.error_ms[0])


def _between_halves(rounds: Rounds) -> float:
    first, second = (Rounds(rounds.times_ms[:, half::2]).summary().latency_ms for half in (0, 1))
    return abs(first / second - 1)


def _speed(table: LatencyTable, models: Sequence[NetworkModel]) -> str:
    operators = models[0].operators
    channels = np.array(
        [[(s.in_channels, s.out_channels) for s in m.operators] for m in models[:CALIBRATION_NETWORKS]]
    )
    many = np.tile(channels, (1000, 1, 1))
    table.predict(operators, many[..., 0], many[..., 1])
    start = time.perf_counter()
    table.predict(operators, many[..., 0], many[..., 1])
    per_s = len(many) / (time.perf_counter() - start)
    return f"{per_s:,.0f} candidates a second, {len(operators)} operators each"


if __name__ == "__main__":
    main()
