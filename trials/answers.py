"""What a model's answers say: accuracy with its error, loss, calibration, and what changed against dense."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trials.candidate import Changes, Move

CALIBRATION_BINS = 15
MOST_MOVES = 5
"""Pairs of classes that are told of all between which answers moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One model on one split. Accuracies are 0..1, loss and divergence are means in nats.

    `accuracy_error` is one standard error. `divergence` is KL(dense || model), 0 without a reference.
    `calibration_error` is how far, 0..1, confidence lies from accuracy on average. `class_accuracy` has an
    entry for each output; 0 for a class without examples. `changes` is None without a reference, `images` is
    how many were looked at.
    """

    accuracy: float
    accuracy_error: float
    loss: float
    divergence: float
    calibration_error: float
    class_accuracy: tuple[float, ...]
    changes: Changes | None
    images: int


def score(outputs: Tensor, labels: Tensor, reference_logits: Tensor | None = None) -> Evaluation:
    """Turn (rows, classes) logits and (rows,) labels into an `Evaluation`.

    The error counts half a right and half a wrong answer more than there were (Agresti and Coull 1998, for
    one standard error), so that a perfect score on 300 images does not claim to be certain.
    """
    rows, classes = outputs.shape
    answers = outputs.argmax(dim=1)
    right = answers == labels
    smoothed = (int(right.sum()) + 0.5) / (rows + 1)
    log_probabilities = F.log_softmax(outputs, dim=1)
    divergence, changes = 0.0, None
    if reference_logits is not None:
        reference = F.log_softmax(reference_logits, dim=1)
        divergence = F.kl_div(log_probabilities, reference, reduction="batchmean", log_target=True).item()
        changes = changes_between(reference_logits.argmax(dim=1), answers, labels, classes)
    per_class = torch.bincount(labels, minlength=classes)
    right_per_class = torch.bincount(labels[right], minlength=classes)
    return Evaluation(
        accuracy=int(right.sum()) / rows,
        accuracy_error=math.sqrt(smoothed * (1 - smoothed) / (rows + 1)),
        loss=F.nll_loss(log_probabilities, labels).item(),
        divergence=divergence,
        calibration_error=calibration_error(log_probabilities.amax(dim=1).exp(), right),
        class_accuracy=tuple((right_per_class.double() / per_class.clamp(min=1)).tolist()),
        changes=changes,
        images=rows,
    )


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error, 0..1, of (rows,) confidences in `CALIBRATION_BINS` bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.
    """
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    excess = torch.zeros(CALIBRATION_BINS, dtype=torch.float64)
    excess.index_add_(0, bins, right.double() - confidence.double())
    return float(excess.abs().sum()) / len(confidence)


def changes_between(dense: Tensor, answers: Tensor, labels: Tensor, classes: int) -> Changes:
    """What (rows,) answers are otherwise than the dense model's."""
    was_right, is_right = dense == labels, answers == labels
    lost = torch.bincount(labels[was_right & ~is_right], minlength=classes).double()
    won = torch.bincount(labels[~was_right & is_right], minlength=classes).double()
    images = torch.bincount(labels, minlength=classes)
    drops = ((lost - won) / images).nan_to_num(nan=-math.inf)  # a class without images has lost nothing
    worst = int(drops.argmax())
    moved = dense != answers
    pairs = Counter(zip(dense[moved].tolist(), answers[moved].tolist(), strict=True))
    most = sorted(pairs.items(), key=lambda each: (-each[1], each[0]))[:MOST_MOVES]
    return Changes(
        lost=int(lost.sum()),
        won=int(won.sum()),
        moves=tuple(Move(was, now, images) for (was, now), images in most),
        worst_class=worst,
        worst_drop=float(drops[worst]),
        # Variance of a difference of counts of disagreeing pairs (McNemar 1947), one more than there were.
        worst_drop_error=math.sqrt(float(lost[worst] + won[worst]) + 1) / int(images[worst]),
    )
