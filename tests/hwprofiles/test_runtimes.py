import pytest

from hwprofiles import open_runtime
from hwprofiles.errors import RequestError


def test_an_unknown_runtime_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match="'onxruntime' is not known; did you mean 'onnxruntime'"):
        open_runtime("onxruntime")


def test_a_precision_that_a_runtime_does_not_run_is_refused_with_what_it_runs() -> None:
    with pytest.raises(RequestError, match="'onnxruntime' does not run 'fp16'; did you mean 'fp32'"):
        open_runtime("onnxruntime", "fp16")


def test_a_known_runtime_opens() -> None:
    assert open_runtime("onnxruntime").describe(name="here", batch=1, threads=1).runtime == "onnxruntime"
