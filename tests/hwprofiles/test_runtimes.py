from dataclasses import replace

import pytest

from hwprofiles import Device, lowering_of, open_runtime
from hwprofiles.errors import RequestError
from hwprofiles.runtimes import PLAIN
from tests.contracts.runtime import OPERATORS, chooses_by_period, conv


def board(runtime: str, channel_step: int) -> Device:
    """A device that is elsewhere."""
    return Device(name="board", runtime=runtime, board="another board", channel_step=channel_step)


def test_an_unknown_runtime_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match="'onxruntime' is not known; did you mean 'onnxruntime'"):
        open_runtime("onxruntime")
    with pytest.raises(RequestError, match="'onxruntime' is not known; did you mean 'onnxruntime'"):
        lowering_of(board("onxruntime", 8))


def test_a_precision_that_a_runtime_does_not_run_is_refused_with_what_it_runs() -> None:
    with pytest.raises(RequestError, match="'onnxruntime' does not run 'fp16'; did you mean 'fp32'"):
        open_runtime("onnxruntime", "fp16")


def test_a_known_runtime_opens() -> None:
    assert open_runtime("onnxruntime").describe(name="here", batch=1, threads=1).runtime == "onnxruntime"


@pytest.mark.parametrize(
    ("runtime", "step", "counts"),
    [
        ("onnxruntime", 8, (24, 48)),
        ("onnxruntime", 16, (32, 48)),
        ("onnxruntime", 1, (20, 41)),
        ("tensorrt", 8, (24, 48)),
        ("tensorrt", 1, (20, 41)),
    ],
)
def test_what_becomes_of_an_operator_elsewhere_goes_by_the_step_of_that_device(
    runtime: str, step: int, counts: tuple[int, int]
) -> None:
    (kernel,) = lowering_of(board(runtime, step)).lower(conv(20, 41), PLAIN).kernels
    assert (kernel.in_channels, kernel.out_channels) == counts


def test_imported_layers_are_asked_for_as_a_model_has_them_whatever_ran_them() -> None:
    device = replace(board("tflite", 1), precision="int4", versions={"source": "layers"})
    (kernel,) = lowering_of(device).lower(conv(20, 41, fused=("batch_norm", "relu6")), PLAIN).kernels
    assert kernel == conv(20, 41, fused=("relu6",))


@pytest.mark.parametrize("step", [1, 8, 16])
@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8")])
def test_rules_of_boards_elsewhere_choose_by_their_period(runtime: str, precision: str, step: int) -> None:
    rules = lowering_of(replace(board(runtime, step), precision=precision))
    for spec in OPERATORS:
        chooses_by_period(rules, spec)
