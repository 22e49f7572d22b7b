"""What every runtime promises: subclass, supply `make`, inherit the promises."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hwprofiles import INPUT, Lowering, OpGraph, OpSpec, Runtime, lowering_of, measure
from hwprofiles.errors import RequestError, UnsupportedOpError
from hwprofiles.runtimes import CALL, PLAIN


def conv(in_channels: int, out_channels: int, *, groups: int = 1, fused: tuple[str, ...] = ()) -> OpSpec:
    return OpSpec(
        kind="depthwise_conv2d" if groups == 0 else "conv2d",
        in_channels=in_channels,
        out_channels=out_channels,
        in_size=(6, 6),
        out_size=(6, 6),
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=groups,
        fused=fused,
    )


def transposed(
    in_channels: int, out_channels: int, *, groups: int = 1, fused: tuple[str, ...] = ()
) -> OpSpec:
    """A transposed convolution that doubles the size of a map, its last row and column by output padding."""
    spec = conv(in_channels, out_channels, groups=groups, fused=fused)
    return replace(spec, kind="conv_transpose2d", stride=(2, 2), out_size=(12, 12))


def resized(how: str, channels: int, size: tuple[int, int] = (12, 12)) -> OpSpec:
    return replace(square("resize2d", channels, fused=(how,), size=(6, 6)), out_size=size)


def pool(kind: str, channels: int, out: int) -> OpSpec:
    window = {"kernel": (6 // out,) * 2, "stride": (6 // out,) * 2, "padding": (0,) * 4}
    return OpSpec(
        kind=kind, in_channels=channels, out_channels=channels, in_size=(6, 6), out_size=(out, out), **window
    )


def square(kind: str, channels: int, *, fused: tuple[str, ...] = (), size: tuple[int, ...] = (5,)) -> OpSpec:
    return OpSpec(
        kind=kind, in_channels=channels, out_channels=channels, in_size=size, out_size=size, fused=fused
    )


def in_a_row(specs: Sequence[OpSpec]) -> OpGraph:
    """Each operator reads the one before; the last is the output."""
    sources = tuple((position - 1 if position else INPUT,) for position in range(len(specs)))
    return OpGraph(operators=tuple(specs), sources=sources, outputs=(len(specs) - 1,) if specs else ())


OPERATORS = [
    conv(3, 8),
    conv(20, 24, fused=("batch_norm", "relu")),
    conv(20, 20, fused=("batch_norm", "add", "relu")),
    conv(21, 21, fused=("batch_norm", "add", "relu")),
    conv(32, 16, fused=("batch_norm", "hardtanh")),
    conv(32, 16, fused=("batch_norm", "silu")),
    conv(32, 32, groups=2),
    conv(12, 12, groups=3),
    conv(20, 20, groups=0, fused=("batch_norm", "hardtanh")),
    conv(21, 21, groups=0, fused=("batch_norm", "hardswish")),
    transposed(20, 24, fused=("batch_norm", "relu")),
    transposed(21, 20, fused=("add", "silu")),
    replace(transposed(12, 12, groups=3), dilation=(1, 2), out_size=(12, 14)),
    replace(transposed(20, 20, groups=0), kind="depthwise_conv_transpose2d"),
    resized("nearest", 20),
    resized("bilinear", 32),
    resized("nearest", 21, (9, 8)),
    resized("bilinear", 20, (3, 6)),
    pool("max_pool2d", 32, 3),
    pool("max_pool2d", 20, 3),
    pool("avg_pool2d", 32, 3),
    pool("avg_pool2d", 32, 1),
    pool("avg_pool2d", 20, 1),
    pool("mean2d", 20, 1),
    OpSpec(kind="linear", in_channels=20, out_channels=10, in_size=(1,)),
    OpSpec(kind="linear", in_channels=20, out_channels=10, in_size=(5,), fused=("gelu",)),
    OpSpec(kind="matmul", in_channels=6, out_channels=4, in_size=(5,), out_size=(5, 7)),
    OpSpec(kind="matmul", in_channels=7, out_channels=4, in_size=(5, 6), out_size=(5,)),
    OpSpec(kind="attention", in_channels=16, out_channels=4, in_size=(5, 7)),
    square("copy", 20, size=(5,), fused=("transpose",)),
    square("layer_norm", 20),
    replace(square("layer_norm", 3, size=(5, 8)), kernel=(8,)),
    square("rms_norm", 20),
    square("instance_norm", 20, fused=("relu",), size=(6, 6)),
    replace(square("group_norm", 20, fused=("relu",), size=(6, 6)), kernel=(5,)),
    square("cumsum", 20),
    replace(square("cumsum", 20, size=(5,)), kernel=(5,)),
    square("softmax", 4, size=(5, 5)),
    square("batch_norm", 20, size=(6, 6)),
    square("elementwise", 20, fused=("add",), size=(6, 6)),
    square("elementwise", 20, fused=("relu",)),
    square("elementwise", 20, fused=("masked_fill",)),
    square("copy", 20, fused=("pad",), size=(6, 6)),
    CALL,
]


IDENTITY = in_a_row([square("copy", 3, fused=("alias",), size=())])


def save_identity(path: Path, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def chooses_by_period(rules: Lowering, spec: OpSpec) -> None:
    """Assert that counts which `Lowering.period` calls alike become the same kernels."""
    period = rules.period * (spec.groups or 1)

    def chosen(inputs: int, outputs: int, layout: str) -> tuple[object, ...]:
        kernels, *ways = rules.lower(spec.with_channels(outputs if spec.square else inputs, outputs), layout)
        return (*(kernel.family for kernel in kernels), *ways)

    for inputs, outputs in np.random.default_rng(0).integers(1, 3 * period + 40, (40, 2)).tolist():
        alike = [count if count < period else period + count % period for count in (inputs, outputs)]
        for layout in rules.layouts:
            assert chosen(inputs, outputs, layout) == chosen(*alike, layout)


class RuntimeContract:
    def make(self) -> Runtime:
        raise NotImplementedError

    @pytest.mark.parametrize("spec", OPERATORS, ids=str)
    def test_every_kernel_of_every_operator_runs_again_and_again(self, spec: OpSpec) -> None:
        runtime = self.make()
        device = runtime.describe(name="here", batch=2, threads=1)
        lowered = [runtime.lower(spec, layout) for layout in runtime.layouts]
        for kernel in {kernel for way in lowered for kernel in way.kernels}:
            taken_ms = measure({"it": runtime.prepare_kernel(kernel, device)}, passes=1, rounds=1, seed=0)
            assert taken_ms["it"].summary().latency_ms > 0

    @pytest.mark.parametrize("spec", OPERATORS, ids=str)
    def test_an_operator_takes_and_leaves_tensors_in_known_layouts(self, spec: OpSpec) -> None:
        runtime = self.make()
        assert runtime.layouts[0] == PLAIN
        for layout in runtime.layouts:
            lowered = runtime.lower(spec, layout)
            assert lowered.kernels
            assert {lowered.reads, lowered.joins, lowered.writes} <= {*runtime.layouts}

    def test_lowering_never_drops_a_channel_and_grows_with_them(self) -> None:
        runtime = self.make()

        @given(st.integers(1, 130), st.integers(1, 130))
        def holds(inputs: int, outputs: int) -> None:
            kernel = runtime.lower(conv(inputs, outputs), PLAIN).kernels[0]
            assert kernel.in_channels >= inputs
            assert kernel.out_channels >= outputs
            wider = runtime.lower(conv(inputs, outputs + 1), PLAIN).kernels[0]
            assert wider.out_channels >= kernel.out_channels

        holds()

    @pytest.mark.parametrize("spec", OPERATORS, ids=str)
    def test_what_it_chooses_depends_on_remainders_and_small_counts_alone(self, spec: OpSpec) -> None:
        chooses_by_period(self.make(), spec)

    def test_its_rules_are_known_from_its_device_alone(self) -> None:
        runtime = self.make()
        rules = lowering_of(runtime.describe(name="here", batch=1, threads=1))
        assert rules.layouts == runtime.layouts
        for spec in OPERATORS:
            for layout in rules.layouts:
                assert rules.lower(spec, layout) == runtime.lower(spec, layout)

    def test_an_unknown_operator_is_refused_by_name(self) -> None:
        with pytest.raises(UnsupportedOpError, match=r"conv9d.*conv2d"):
            self.make().lower(square("conv9d", 4), PLAIN)

    def test_the_same_description_is_the_same_device_whatever_its_name(self) -> None:
        runtime = self.make()
        one, other = (runtime.describe(name=name, batch=1, threads=1) for name in ("one", "other"))
        assert one.identity == other.identity
        assert one.identity != runtime.describe(name="one", batch=2, threads=1).identity

    def test_a_device_tells_its_boards_power_mode_unless_it_is_modelled(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runtime = self.make()
        module = sys.modules[runtime.describe.__module__]
        monkeypatch.setattr(module, "power_mode", lambda: "15W", raising=False)
        device = runtime.describe(name="here", batch=1, threads=1)
        assert device.power_mode == ("" if device.modelled else "15W")

    @pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL])
    def test_a_network_runs_at_the_batch_of_its_device(self, tmp_path: Path, dtype: int) -> None:
        save_identity(tmp_path / "network.onnx", ["batch", 3], dtype)
        runtime = self.make()
        device = runtime.describe(name="here", batch=4, threads=1)
        run = runtime.prepare_network(tmp_path / "network.onnx", IDENTITY, device)
        assert measure({"it": run}, passes=1, rounds=1, seed=0)["it"].summary().latency_ms > 0

    def test_a_network_with_two_open_axes_is_refused_naming_its_input(self, tmp_path: Path) -> None:
        save_identity(tmp_path / "network.onnx", ["batch", "tokens"])
        runtime = self.make()
        device = runtime.describe(name="here", batch=1, threads=1)
        with pytest.raises(RequestError, match=r"input 'x'.*tokens"):
            runtime.prepare_network(tmp_path / "network.onnx", IDENTITY, device)

    def test_a_file_that_is_no_network_is_refused_naming_it(self, tmp_path: Path) -> None:
        (tmp_path / "network.onnx").write_bytes(np.arange(9).tobytes())
        runtime = self.make()
        device = runtime.describe(name="here", batch=1, threads=1)
        with pytest.raises(RequestError, match=r"network\.onnx"):
            runtime.prepare_network(tmp_path / "network.onnx", IDENTITY, device)
