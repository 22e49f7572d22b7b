"""One trial, top to bottom, in one process: prune, repair, evaluate, fine-tune, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from operator import itemgetter
from typing import overload

import numpy as np
import torch
from torch import nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # torch's stubs lack it

from hwprofiles.errors import TrialError
from trials import repair
from trials.answers import Evaluation
from trials.augment import Augment, shifted
from trials.bundle import Bundle
from trials.candidate import Candidate, Facts, as_counts
from trials.costs import Costs
from trials.criteria import Evidence, Scores, score, select
from trials.data import Split, Splits
from trials.distill import Distillation, common_features
from trials.evaluate import Execution, Judge, evaluate
from trials.finetune import Constraint, Training, copied
from trials.groups import Coupling, Kept, analyse
from trials.halfway import Halfway
from trials.memory import Memory
from trials.network import Network, build
from trials.norms import recalibrate
from trials.prune import prune
from trials.requests import Leg, Outcome, Recipe, Request, merit
from trials.room import Room
from trials.schedules import SCHEDULES
from trials.sparsity import hide, read_sparsity

CALIBRATION_IMAGES = 2_560
LOOKS = 4
"""How often a training that is rehearsed is looked at, the last time at its end."""


class Workbench:
    """A dense model, its data and everything worked out once: makes candidate after candidate real.

    The `Runner` of the pool's workers.
    """

    def __init__(self, bundle: Bundle, splits: Splits, recipe: Recipe) -> None:
        self.bundle, self.splits, self.recipe = bundle, splits, recipe
        self.coupling: Coupling = analyse(bundle.graph, blocks=recipe.blocks).without(recipe.frozen)
        self.costs = Costs(self.coupling)
        self.memory, self.room = Memory(self.costs), Room.of(self.costs)
        self.execution = Execution(recipe.execution)
        self.sparsity = read_sparsity(recipe.zeros, recipe.zeros_scope) if recipe.zeros else None

    @overload
    def __call__(self, asked: Request) -> Outcome: ...
    @overload
    def __call__(self, asked: Leg) -> Outcome | Halfway: ...
    def __call__(self, asked: Request | Leg) -> Outcome | Halfway:
        """Make a candidate real, or a final one as real as it becomes in a leg.

        Raises:
            TrialError: it keeps everything, something in it is not finite, or a layer cannot be refitted.
        """
        if isinstance(asked, Request):
            return self._made_real(asked)
        if self.sparsity or not self.recipe.final_steps:
            return self._made_real(asked.request)
        halfway = self._trained_for(asked)
        return halfway if halfway.share < 1 else self._made_real(asked.request, halfway)

    def _made_real(self, request: Request, trained: Halfway | None = None) -> Outcome:
        """
        Args:
            trained: what came of its legs, where it was trained in such.
        """
        history: dict[str, float] = {}
        notes: list[str] = []
        judge = self._whole if request.final else self._sample
        steps = self.recipe.final_steps if request.final else self.recipe.brief_steps
        steps, sparsity = (0, None) if request.probe else (steps, self.sparsity)
        network, kept, seconds = self._begun(request, trained)
        last, repaired = 0.0 if steps else request.needed, network
        evaluation = self._timed_evaluation(network, judge, seconds, 0.0 if sparsity else last)
        history["repaired"] = evaluation.accuracy
        if sparsity:
            cut = Bundle(repaired.graph, repaired.state_dict()).network()
            hide(cut, sparsity.masks(cut))
            evaluation, network = self._best([cut, self.recalibrated(cut)], judge, seconds, last)
            history["sparse"] = evaluation.accuracy
        if steps:
            start = network if self.recipe.schedule == "one_shot" else repaired
            if trained:
                self._note_memory(trained.state.at_once, notes)
                tuned = [build(network.graph, each) for each in (trained.state.model, trained.state.averaged)]
            else:
                tuned = self._finetuned(start, steps, request.seed, seconds, notes)
            after, better = self._best(tuned, judge, seconds, request.needed)
            history["fine-tuned"] = after.accuracy
            # Fine-tuning a well repaired model can cost accuracy: keep what is better on held-out data.
            if self._merit(after) >= self._merit(evaluation) or not request.final:
                network, evaluation = better, after
        counts = as_counts([request.candidate])
        facts = Facts(
            accuracy=evaluation.accuracy,
            accuracy_error=evaluation.accuracy_error,
            loss=evaluation.loss,
            divergence=evaluation.divergence,
            macs=int(self.costs.macs(counts)[0]),
            parameters=int(self.costs.parameters(counts)[0]),
            peak_bytes=int(self.memory.peak_bytes(counts)[0]),
            calibration_error=evaluation.calibration_error,
            class_accuracy=evaluation.class_accuracy,
            changes=evaluation.changes,
            images=evaluation.images,
            history=history,
            seconds=seconds,
            notes=tuple(dict.fromkeys(notes)),
        )
        outcome = Outcome(facts=facts, kept=_listed(kept))
        if not request.final:
            return outcome
        network_kept = Bundle(network.graph, copied(network.state_dict()))
        return replace(outcome, test=self._test(network), network=network_kept)

    def _begun(self, request: Request, halfway: Halfway | None) -> tuple[Network, Kept, dict[str, float]]:
        """The network as it is repaired, the units that it has, and the seconds that went into it by now."""
        if halfway:
            kept: Kept = {name: np.array(units, dtype=np.int64) for name, units in halfway.kept.items()}
            return halfway.repaired.network().eval(), kept, dict(halfway.seconds)
        started = time.perf_counter()
        network, kept = self._prune_and_repair(request)
        return network, kept, {"repair": time.perf_counter() - started}

    def _trained_for(self, leg: Leg) -> Halfway:
        """Where a leg ends."""
        halfway, steps = leg.halfway, self.recipe.final_steps
        repaired, kept, seconds = self._begun(leg.request, halfway)
        started = time.perf_counter()
        begun = Bundle(repaired.graph, repaired.state_dict())
        training = self._training(begun.network(), steps, leg.request.seed)
        if halfway:
            training.go_on(halfway.state)
        state = training.run(for_s=leg.for_s).state()
        seconds["fine-tune"] = seconds.get("fine-tune", 0.0) + time.perf_counter() - started
        return Halfway(
            recipe=asdict(self.recipe),
            repaired=begun,
            kept=_listed(kept),
            state=state,
            seconds=seconds,
        )

    def dense(self) -> tuple[Evaluation, Mapping[str, float] | None]:
        """The dense model on the validation and the test split."""
        return self._whole(self._dense), self._test(self._dense)

    def repaired(self, candidate: Candidate) -> Network:
        """A candidate pruned and repaired as a finalist is."""
        network, _ = self._prune_and_repair(Request(candidate=candidate, seed=0, final=True))
        return network

    def rehearse(self, start: Network, seed: int, look: Callable[[int, Evaluation], None]) -> None:
        """Train a repaired network as a finalist is trained, and say on the way how good it is.

        Args:
            look: called with 1 to `LOOKS` after such a share of the steps; at the end alone where the job has
                zeros, which come during the training.

        Raises:
            TrialError: something in the training is not finite.
        """
        steps = self.recipe.final_steps

        def watch(network: Network, step: int) -> None:
            looks = step * LOOKS // steps
            if step < steps and looks > (step - 1) * LOOKS // steps:
                training = network.training
                look(looks, self._whole(network))
                network.train(training)

        tuned = self._finetuned(start, steps, seed, {}, [], watch if self.sparsity is None else None)
        evaluation, _ = self._best(tuned, self._whole, {}, 0.0)
        look(LOOKS, evaluation)

    @cached_property
    def scores(self) -> Scores:
        """What units are worth by the job's criterion."""
        return score(self.recipe.criterion, self._evidence)

    @cached_property
    def errors(self) -> Scores:
        """The order in which units are missed least, of groups whose readers can all be refitted."""
        return repair.importance(self.calibration)

    @property
    def calibration(self) -> repair.Calibration:
        """What repairs look at."""
        return self._evidence.calibration

    def recalibrated(self, network: Network) -> Network:
        """A copy whose batch norms have the statistics of training images."""
        copy = Bundle(network.graph, network.state_dict()).network()
        batches = self._evidence.examples.batches(self.room.forward)
        recalibrate(copy, (tuple(map(torch.from_numpy, arrays)) for arrays, _ in batches))
        return copy

    @cached_property
    def _dense(self) -> Network:
        """On the bundle's own tensors: for whoever runs it and never trains it."""
        return build(self.bundle.graph, self.bundle.tensors).eval()

    @cached_property
    def _evidence(self) -> Evidence:
        """Images for calibration, drawn from the train split."""
        train = self.splits.train
        count = min(CALIBRATION_IMAGES, len(train))
        rows = np.random.default_rng(self.recipe.seed).permutation(len(train))[:count]
        return Evidence(
            self.coupling,
            self.bundle.tensors,
            train.take(np.sort(rows)),
            self.room,
            self.recipe.seed,
        )

    def _merit(self, evaluation: Evaluation) -> float:
        return merit(evaluation, self.splits.carved)

    @cached_property
    def _whole(self) -> Judge:
        return self._judge(self.splits.validation)

    @cached_property
    def _sample(self) -> Judge:
        """By the validation images that a trial is judged by, evenly spaced over all of them."""
        limit, split = self.recipe.validation_images, self.splits.validation
        return self._judge(split.evenly(limit)) if 0 < limit < len(split) else self._whole

    def _judge(self, split: Split) -> Judge:
        """By shifted images where the split is carved: they must not be the ones learnt."""
        seen = shifted(split, self.recipe.seed) if self.splits.carved else split
        return Judge(seen, self._dense, execution=self.execution, batch_size=self.room.forward)

    def _distillation(self, pupil: Network) -> Distillation | None:
        """The dense model as the teacher of a pruned one; None if the job asks for labels alone."""
        if not self.recipe.distill:
            return None
        arrays, _ = self.splits.train.batch(slice(1))
        features = common_features(self._dense, pupil, tuple(torch.from_numpy(values) for values in arrays))
        return Distillation(self._dense, weight=self.recipe.distill, features=features)

    def _prune_and_repair(self, request: Request) -> tuple[Network, Kept]:
        kept = select(self.coupling, self.scores, request.candidate)
        if not kept:
            raise TrialError("the candidate keeps every unit, so there is nothing to prune")
        how = self.recipe.final_repair if request.final else self.recipe.repair
        try:
            if how == "least_squares":
                return Bundle(*repair.fast(self.calibration, kept)).network(), kept
            if how == "sequential" and request.final:
                return self._sequential(request.candidate, kept)
            if how == "sequential":
                brief = self._evidence.brief_calibration
                repaired = (
                    repair.fast(brief, kept) if request.probe else repair.sequential(brief, kept, reaimed=0)
                )
                return Bundle(*repaired).network(), kept
        except LinAlgError as error:
            raise TrialError(f"the {how} repair has no solution: {error}") from None
        network = Bundle(*prune(self.coupling, self.bundle.tensors, kept)).network()
        return (self.recalibrated(network) if how == "batchnorm" else network), kept

    def _sequential(self, candidate: Candidate, kept: Kept) -> tuple[Network, Kept]:
        """What does best on held-out data: units by the criterion or by the error that each causes, and of
        the better network, statistics of batch norms as they are or recalibrated."""
        choices = [kept]
        # By error the criterion may choose itself; where blocks alone go, no units are to be chosen.
        if self.recipe.criterion != "error" and any(len(units) for units in kept.values()):
            choices.append(select(self.coupling, {**self.scores, **self.errors}, candidate))
        repaired = [Bundle(*repair.sequential(self.calibration, units)).network() for units in choices]
        tried = [self._tried(network, units) for network, units in zip(repaired, choices, strict=True)]
        _, network, units = max(tried, key=itemgetter(0))
        again = self._tried(self.recalibrated(network), units)
        _, network, units = max(*tried, again, key=itemgetter(0))
        return network, units

    def _tried(self, network: Network, kept: Kept) -> tuple[float, Network, Kept]:
        return self._merit(self._timed_evaluation(network, self._whole, {})), network, kept

    def _finetuned(
        self,
        network: Network,
        steps: int,
        seed: int,
        seconds: dict[str, float],
        notes: list[str],
        watch: Callable[[Network, int], None] | None = None,
    ) -> list[Network]:
        """Fine-tuned copies: after the last step, and averaged or, with the job's zeros, recalibrated.

        Args:
            watch: called with the network and the number of steps done.
        """
        started = time.perf_counter()
        trained = Bundle(network.graph, network.state_dict()).network()

        def train(steps: int, constraint: Constraint | None = None) -> Training:
            training = self._training(trained, steps, seed, constraint)
            training.run(progress=lambda step, _: watch(trained, step) if watch else None)
            self._note_memory(training.at_once, notes)
            return training

        if self.sparsity is None:
            found = [trained, build(trained.graph, train(steps).averaged)]
        else:
            SCHEDULES[self.recipe.schedule](trained, self.sparsity, steps, train)
            found = [trained, self.recalibrated(trained)]
        seconds["fine-tune"] = time.perf_counter() - started
        return found

    def _training(
        self, network: Network, steps: int, seed: int, constraint: Constraint | None = None
    ) -> Training:
        return Training(
            network,
            self.splits.train,
            steps=steps,
            seed=seed,
            batch_size=self.recipe.batch_size,
            at_once=self.room.backward,
            learning_rate=self.recipe.learning_rate,
            distillation=self._distillation(network),
            augment=Augment(self.recipe.augment),
            execution=Execution(self.recipe.training),
            constraint=constraint,
        )

    def _note_memory(self, at_once: int, notes: list[str]) -> None:
        batch_size = self.recipe.batch_size
        if at_once < min(batch_size, self.room.backward):
            notes.append(f"memory did not hold batches of {batch_size}: trained on {at_once} at a time")

    def _best(
        self, networks: Iterable[Network], judge: Judge, seconds: dict[str, float], needed: float
    ) -> tuple[Evaluation, Network]:
        judged = [(self._timed_evaluation(each, judge, seconds, needed), each) for each in networks]
        return max(judged, key=lambda found: self._merit(found[0]))

    def _timed_evaluation(
        self, network: nn.Module, judge: Judge, seconds: dict[str, float], needed: float = 0.0
    ) -> Evaluation:
        started = time.perf_counter()
        found = judge(network, needed=needed)
        seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - started
        return found

    def _test(self, network: nn.Module) -> dict[str, float] | None:
        if self.splits.test is None:
            return None
        found = evaluate(network, self.splits.test)
        return {
            "accuracy": found.accuracy,
            "accuracy_error": found.accuracy_error,
            "loss": found.loss,
            "calibration_error": found.calibration_error,
        }


def _listed(kept: Kept) -> dict[str, list[int]]:
    return {name: units.tolist() for name, units in kept.items()}
