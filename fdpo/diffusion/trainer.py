r"""The f-DPO trainer of image models, on Accelerate.

For a pair :math:`(x_w, x_l)` with its times and noise the trainer produces the log-ratios
:math:`\hat\ell_w` and :math:`\hat\ell_l` (:mod:`fdpo.diffusion.noise`); :mod:`fdpo.diffusion.loss`
computes the loss from them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader
from tqdm.auto import tqdm

from fdpo.diffusion.checkpoints import load_checkpoint, save_checkpoint
from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import ImagePairBatch, PairDataset, Pairs, ResumableSampler
from fdpo.diffusion.loss import Metrics, NoisedSides, get_kappa, noise_sides, pair_losses
from fdpo.diffusion.metrics import RecentLogRatios, TrainingLog, brief, gather_metrics
from fdpo.diffusion.models import add_lora
from fdpo.diffusion.noise import NoiseProcess, errors
from fdpo.diffusion.reference import Reference, frozen_copy, open_cache
from fdpo.preferences.pairs import SIDES
from fdpo.runs.cache import ReferenceCache
from fdpo.runs.interrupts import Interrupts
from fdpo.runs.notes import note, reason
from fdpo.runs.resume import require_whole

Predict = Callable[..., Tensor]
"""(model, x_t, times in the model's units, **conditions) -> prediction."""

Encode = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""loaded batch -> :class:`~fdpo.diffusion.dataset.ImagePairBatch`."""

Validate = Callable[[nn.Module], Mapping[str, float]]
"""model -> metrics by name."""


def unconditional(model: nn.Module, x: Tensor, times: Tensor, **conditions: Any) -> Tensor:
    """Predicts with a diffusers model."""
    return model(x, times, **conditions).sample


class DiffusionTrainer:
    """Trains an image model on preference pairs and keeps it near its reference.

    With ``config.rank`` it trains an adapter, and the reference is the model without the adapter;
    otherwise it trains all weights, and the reference is a frozen copy.

    The log holds, for each side, the mean log-ratio and the errors of policy and reference; the
    implicit accuracy (a tie counts half); and the share of pairs in the tail.

    Arguments:
        model: The model; it becomes the policy.
        process: Its noising process.
        pairs: The pairs to train on.
        config: The options.
        predict: The call of the model.
        encode: Turns a loaded batch, on the model's device, into images (or latents) and
            conditions. By default the batch holds them already.

    Raises:
        ValueError: If there are no pairs, no layers for an adapter, or the device lacks the
            precision.
        ImportError: If the package of a tracker is not installed.
        FloatingPointError: If a loss is not finite; the message names step and pair.
    """

    def __init__(
        self,
        model: nn.Module,
        process: NoiseProcess,
        pairs: Pairs,
        config: DiffusionConfig,
        predict: Predict = unconditional,
        encode: Encode | None = None,
    ) -> None:
        self.config, self.process, self.predict, self.encode = config, process, predict, encode
        self.divergence, self.preference = config.resolve()
        self.folder = Path(config.output_dir or ".")
        self.accelerator = Accelerator(
            cpu=config.use_cpu,
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with=config.trackers or None,
            project_dir=config.output_dir,
        )
        config.require_device(self.accelerator.device)
        _require_trackers(config, self.accelerator)
        set_seed(config.seed)
        if len(pairs) < 1:
            raise ValueError("there are no pairs to train on")
        if config.gradient_checkpointing:
            model.enable_gradient_checkpointing()  # type: ignore[operator]
        self.sides = SIDES if config.compares else SIDES[:1]
        # The errors of an encoded image depend on its encoder too, so they are not cached.
        cache = open_cache(model, process, config, enabled=config.compares and encode is None)
        self.dataset = PairDataset(
            pairs,
            process,
            config.timesteps_per_pair,
            config.seed,
            config.repeat_draws,
            keyed=cache.enabled,
        )
        policy = add_lora(model, config) if config.rank else model.requires_grad_(True)
        frozen = frozen_copy(policy) if config.compares and not config.rank else None
        self._prepare(policy)
        self.reference = self._make_reference(frozen, cache) if config.compares else None
        self.step, self.seconds = 0, 0.0
        self.history = TrainingLog(self.accelerator, self.folder)
        self.recent = RecentLogRatios()
        self.interrupts = Interrupts()

    def _prepare(self, policy: nn.Module) -> None:
        """Prepares the policy, its optimizer, its schedule and its moving average."""
        config, accelerator = self.config, self.accelerator
        trainable = [p for p in policy.parameters() if p.requires_grad]
        optimizer = config.make_optimizer(trainable)
        # Accelerate's scheduler takes a step for every process.
        lr_scheduler = get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps * accelerator.num_processes,
            num_training_steps=config.max_train_steps * accelerator.num_processes,
        )
        self.policy, self.optimizer, self.lr_scheduler = accelerator.prepare(
            policy, optimizer, lr_scheduler
        )
        self.ema = EMAModel(trainable, decay=config.ema_decay) if config.use_ema else None
        if self.ema is not None:
            self.ema.to(accelerator.device)

    def _make_reference(self, frozen: nn.Module | None, cache: ReferenceCache) -> Reference:
        if frozen is None:
            policy = self.accelerator.unwrap_model(self.policy)
            return Reference(policy, self._predict, cache, adapter=True)
        return Reference(frozen.to(self.accelerator.device), self._predict, cache, adapter=False)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The rows of the log."""
        return self.history.rows

    # --- the loss of a batch ---

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Computes the mean loss of a batch of B pairs and the metrics of each pair.

        Arguments:
            batch: An :class:`~fdpo.diffusion.dataset.ImagePairBatch`, or with ``encode`` its input.

        Returns:
            The mean loss and the metrics by name, with shape (B).
        """
        encoded = cast(ImagePairBatch, batch if self.encode is None else self.encode(batch))
        inputs = noise_sides(encoded, self.process, self.sides)
        shape = (len(self.sides), *encoded["times"].shape)
        reference = None
        if self.reference is not None:
            # Before the policy, whose activations then reuse the memory of the reference's.
            reference = self.reference.errors(inputs, encoded.get("keys")).view(shape)
        policy = errors(self._predict(self.policy, inputs), inputs.target).view(shape)
        losses, metrics = pair_losses(
            policy, reference, get_kappa(self.config, self.process, encoded), self.config,
            divergence=self.divergence, preference=self.preference,
        )  # fmt: skip
        return losses.mean(), metrics

    def _predict(self, model: nn.Module, inputs: NoisedSides) -> Tensor:
        # One autocast region per forward pass: a shared one would cache half-precision copies of
        # weights, which an adapter's switch changes.
        with self.accelerator.autocast():
            return self.predict(model, inputs.x_t, inputs.times, **inputs.conditions)

    # --- training ---

    def train(self, checkpoint: str | Path | None = None, validate: Validate | None = None) -> None:
        """Trains to the last step; Ctrl-C saves a checkpoint and stops.

        A validation that fails is one line, and the training continues.

        Arguments:
            checkpoint: The checkpoint to resume from; by default training starts from the model.
            validate: Returns metrics of a model, which are logged. The first process calls it every
                ``validation_steps`` updates, with the model that :meth:`averaged_policy` yields.
        """
        if checkpoint is not None:
            self._resume(Path(checkpoint))
        if self.config.trackers:
            self.history.start_trackers(vars(self.config))
        loader = self._loader()
        if self.step == 0:
            self._require_equal_start(next(iter(loader)))
        self.interrupts.watch()
        self.begun = time.monotonic() - self.seconds
        self.policy.train()
        with self._progress_bar() as bar:
            self._train(loader, bar, validate)
        if self.reference is not None:
            self.reference.cache.save()
            self.reference.cache.report(self.folder, resumed=checkpoint is not None)
        self.interrupts.release()

    def _train(self, loader: Any, bar: Any, validate: Validate | None) -> None:
        batches: list[Metrics] = []
        for batch in loader:
            metrics, norm = self._train_batch(batch)
            batches.append(metrics)
            if not self.accelerator.sync_gradients:
                continue
            self.step += 1
            self.seconds = time.monotonic() - self.begun
            if self.ema is not None:
                self.ema.step(self._trainable())
            bar.update()
            self._record(batches, norm, bar)
            batches = []
            self._validate(validate)
            stopped = self.interrupts.any_process_stopped()
            if stopped or self.step % self.config.checkpointing_steps == 0:
                self.save_checkpoint()
            if stopped:
                break

    def _train_batch(self, batch: Mapping[str, Any]) -> tuple[Metrics, float]:
        """Adds the gradient of a batch; the last batch of an update takes the optimizer's step."""
        with self.accelerator.accumulate(self.policy):
            loss, metrics = self.compute_loss(batch)
            self._require_finite(metrics["loss"], batch["index"])
            self.accelerator.backward(loss)
            norm = self._clip()
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        return metrics, norm

    def _record(self, batches: list[Metrics], norm: float, bar: Any) -> None:
        """Logs the metrics of an update every ``logging_steps`` updates and at the end."""
        metrics, means = gather_metrics(self.accelerator, batches)
        self.recent.add(metrics)
        if self.step % self.config.logging_steps and self.step != self.config.max_train_steps:
            return
        rate = self.lr_scheduler.get_last_lr()[0]
        row = {"step": self.step, **means, "grad_norm": norm, "learning_rate": rate}
        bar.set_postfix_str(brief(row))
        self.history.add(row)

    def _validate(self, validate: Validate | None) -> None:
        steps = self.config.validation_steps
        if validate is None or not steps or self.step % steps:
            return
        if self.accelerator.is_main_process:
            begun = time.monotonic()
            try:
                with self.averaged_policy() as model:
                    metrics = validate(model)
            except Exception as error:
                note(f"step {self.step}: no validation: {reason(error)}")
            else:
                row = {f"validation/{name}": value for name, value in metrics.items()}
                self.history.add({"step": self.step, **row})
            self.begun += time.monotonic() - begun  # seconds are those of training alone
        self.accelerator.wait_for_everyone()
        self.policy.train()

    @contextmanager
    def averaged_policy(self) -> Iterator[nn.Module]:
        """Yields the policy with its moving average (with ``use_ema``) and restores its weights."""
        if self.ema is not None:
            self.ema.store(self._trainable())
        try:
            yield self.finished()
        finally:
            if self.ema is not None:
                self.ema.restore(self._trainable())

    def finished(self) -> nn.Module:
        """Returns the trained model, including an adapter.

        With ``use_ema`` the moving average replaces the policy's weights, so call it after
        training; :meth:`averaged_policy` is for during training.
        """
        if self.ema is not None:
            self.ema.copy_to(self._trainable())
        return self.accelerator.unwrap_model(self.policy).eval()

    def merged(self) -> nn.Module:
        """Returns the trained model with an adapter merged into its weights."""
        model: Any = self.finished()
        return copy.deepcopy(model).merge_and_unload() if self.config.rank else model

    def quantiles(self) -> dict[str, float]:
        """Returns quantiles of both sides' recent log-ratios: the range of the link in use."""
        return self.recent.quantiles()

    def save_checkpoint(self) -> None:
        """Saves the state of the training and removes the oldest checkpoints."""
        state = {"step": self.step, "seconds": self.seconds, "log": self.log}
        limit = self.config.checkpoints_total_limit
        save_checkpoint(self.accelerator, self.folder, state, self.ema, self.recent, limit)
        if self.reference is not None:
            self.reference.cache.save()

    def _resume(self, checkpoint: Path) -> None:
        require_whole(checkpoint)
        state = load_checkpoint(self.accelerator, checkpoint, self.ema, self.recent)
        self.step, self.seconds = state["step"], state["seconds"]
        self.history.rows = state["log"]
        # A longer schedule than that of the checkpoint has another learning rate at this step.
        schedule = self.lr_scheduler.scheduler
        for group, base, share in zip(
            self.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * share(schedule.last_epoch)

    def _loader(self) -> Any:
        config, processes = self.config, self.accelerator.num_processes
        update = config.train_batch_size * config.gradient_accumulation_steps * processes
        order: Any = ResumableSampler(
            len(self.dataset),
            (config.max_train_steps - self.step) * update,
            self.step * update,
            config.seed,
        )
        loader: Any = DataLoader(
            self.dataset,
            batch_sampler=BatchSampler(order, config.train_batch_size, drop_last=True),
            num_workers=config.dataloader_num_workers,
        )
        return self.accelerator.prepare_data_loader(loader)

    def _progress_bar(self) -> Any:
        return tqdm(
            desc="training",
            total=self.config.max_train_steps,
            initial=self.step,
            unit=" updates",
            disable=not self.accelerator.is_main_process,
        )

    def _trainable(self) -> Iterator[nn.Parameter]:
        return (p for p in self.policy.parameters() if p.requires_grad)

    def _clip(self) -> float:
        if not self.accelerator.sync_gradients:
            return 0.0
        norm = self.accelerator.clip_grad_norm_(self._trainable(), self.config.max_grad_norm)
        return 0.0 if norm is None else float(norm)

    def _require_equal_start(self, batch: Mapping[str, Any]) -> None:
        """Raises ``RuntimeError`` unless the untouched policy equals its reference, bit for bit."""
        if self.reference is None:
            return
        self.policy.train()
        # Cached errors may come from other batches, which round differently.
        uncached = {name: value for name, value in batch.items() if name != "keys"}
        with torch.no_grad():
            _, metrics = self.compute_loss(uncached)
        largest = max(metrics[f"log_ratios/{side}"].abs().max() for side in SIDES)
        if largest > 0:
            raise RuntimeError(
                f"the untouched policy differs from its reference (a log-ratio of {largest:.3g}): "
                "is there dropout in the model?"
            )

    def _require_finite(self, losses: Tensor, index: Tensor) -> None:
        wrong = ~torch.isfinite(losses)
        if wrong.any():
            pair = index.to(wrong.device)[wrong][0].item()
            raise FloatingPointError(
                f"step {self.step + 1}: the loss of pair {pair} is {losses[wrong][0].item():g}"
            )


def _require_trackers(config: DiffusionConfig, accelerator: Accelerator) -> None:
    """Raises ``ImportError`` for the trackers that Accelerate left out because they are missing."""
    available = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    for name in config.trackers:
        if name not in available | {"all"}:
            raise ImportError(f"--report_to {name}: pip install {name.replace('_', '-')}")
