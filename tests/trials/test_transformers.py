"""Models of the transformers library, small and with random weights: what is pruned, why the rest stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trials.export import export_model
from trials.graph import Input
from trials.groups import analyse
from trials.proof import prove

pytestmark = pytest.mark.slow
transformers = pytest.importorskip("transformers")

WIDE = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}


class Outputs(nn.Module):
    """Some of the tensors that a model of the library returns."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = self.model(x)
        return tuple(found[name] for name in self.names)


def bert() -> tuple[nn.Module, Input]:
    config = transformers.BertConfig(**WIDE, vocab_size=64, max_position_embeddings=16)
    model = Outputs(transformers.BertForSequenceClassification(config), "logits")
    return model, Input(name="ids", shape=(16,), dtype="int64", high=64)


def vit() -> tuple[nn.Module, Input]:
    config = transformers.ViTConfig(**WIDE, image_size=16, patch_size=4)
    model = Outputs(transformers.ViTForImageClassification(config), "logits")
    return model, Input(name="x", shape=(3, 16, 16))


def segformer() -> tuple[nn.Module, Input]:
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16
    )
    model = Outputs(transformers.SegformerForSemanticSegmentation(config), "logits")
    return model, Input(name="x", shape=(3, 64, 64))


def llama() -> tuple[nn.Module, Input]:
    config = transformers.LlamaConfig(
        **WIDE, num_key_value_heads=2, vocab_size=64, max_position_embeddings=16
    )
    model = Outputs(transformers.LlamaForCausalLM(config), "logits")
    return model, Input(name="ids", shape=(16,), dtype="int64", high=64)


def detr() -> tuple[nn.Module, Input]:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32, 48], depths=[1] * 4, out_features=["stage4"]
    )
    layers: dict[str, Any] = {
        f"{part}_{what}": size
        for part in ("encoder", "decoder")
        for what, size in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 48))
    }
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=backbone, d_model=32, num_queries=5, **layers
    )
    model = Outputs(transformers.DetrForObjectDetection(config), "logits", "pred_boxes")
    return model, Input(name="x", shape=(3, 64, 64))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "kinds", "stays"),
    [
        (bert, {"heads": 2, "head width": 4, "channels": 3}, {"layer norm": 7, "it is an output": 1}),
        (vit, {"heads": 2, "head width": 4, "channels": 2}, {"layer norm": 5, "it is an output": 1}),
        (
            segformer,
            {"heads": 3, "head width": 8, "channels": 9},
            {"layer norm": 15, "it is an output": 1, "can only go all at once": 1},
        ),
        # Both layers turn their queries by one table of positions, so those have one width.
        (llama, {"heads": 2, "head width": 3, "channels": 2}, {"takes the mean": 5, "it is an output": 1}),
        (detr, {"heads": 3, "head width": 6, "channels": 17}, {"cannot shrink": 6, "it is an output": 2}),
    ],
)
def test_models_of_the_library_are_pruned_and_proved(
    make: Callable[[], tuple[nn.Module, Input]], kinds: dict[str, int], stays: dict[str, int]
) -> None:
    torch.manual_seed(0)
    model, item = make()
    bundle = export_model(model, [item])
    coupling = prove(analyse(bundle.graph), bundle.tensors)
    assert Counter(group.kind for group in coupling.groups) == kinds
    assert {reason: sum(reason in f.reason for f in coupling.frozen) for reason in stays} == stays
    assert len(coupling.frozen) == sum(stays.values())
