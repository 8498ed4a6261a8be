r"""f-DPO for image models, on Accelerate.

For a pair :math:`(x_w, x_l)` and one draw of a time and noise for both, the trainer's whole part in
the mathematics is to produce :math:`\hat\ell_w` and :math:`\hat\ell_l`
(:mod:`fdpo.diffusion.noise`); :func:`fdpo.fdpo_loss` does the rest. With several draws,
:math:`\hat\ell` is their mean, which comes closer to the log-ratio of whole paths; at a single time
a link other than the reverse KL's is a surrogate for each step. (Wallace et al., 2024,
https://arxiv.org/abs/2311.12908)
"""

from __future__ import annotations

import copy
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader
from tqdm.auto import tqdm

from fdpo import runs
from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import PairDataset, Pairs, ResumableSampler
from fdpo.diffusion.noise import NoiseProcess, errors, log_ratios
from fdpo.preferences.pairs import SIDES
from fdpo.runs.cache import OFF, ReferenceCache, fingerprint, model_config
from fdpo.runs.interrupts import Interrupts

LOG, STATE = "log.jsonl", "trainer_state.json"
QUANTILES = (0.05, 0.5, 0.95)

Predict = Callable[..., Tensor]
"""(model, x_t, times in the model's units, **conditions) -> prediction."""

Encode = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""batch as it is loaded -> batch with ``chosen``, ``rejected`` and ``conditions``."""

Validate = Callable[[nn.Module], Mapping[str, float]]
"""model -> figures of it, by name."""


def unconditional(model: nn.Module, x: Tensor, times: Tensor, **conditions: Any) -> Tensor:
    """Predicts with a model that is called as those of diffusers are."""
    return model(x, times, **conditions).sample


class DiffusionTrainer:
    """Trains an image model on pairs of pictures, near to what it was at the start.

    With ``config.rank`` an adapter is trained and the reference is the model without it; otherwise
    all weights are, and the reference is a frozen copy.

    It logs, per side, the mean log-ratio and errors of policy and reference; the implicit accuracy
    (a tie counts half); and the share of pairs in the tail.

    Arguments:
        model: The model; it becomes the policy.
        process: Its noising process.
        pairs: The pairs to train on.
        config: The options.
        predict: How the model is called.
        encode: What a loaded batch goes through first, on the model's device: pictures and captions
            become what the model takes. By default nothing.

    Raises:
        ValueError: If there are no pairs, or no layers for an adapter.
        FloatingPointError: If a loss is not finite, naming step and pair.
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
        self.weights = config.weights()
        self.accelerator = Accelerator(
            cpu=config.use_cpu,
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with=None if config.report_to == "none" else config.report_to.split(","),
            project_dir=config.output_dir,
        )
        set_seed(config.seed)
        if len(pairs) < 1:
            raise ValueError("there are no pairs to train on")
        if config.gradient_checkpointing:
            model.enable_gradient_checkpointing()  # type: ignore[operator]
        compares = config.compares
        self.sides = SIDES if compares else SIDES[:1]
        # An encoded image depends on more than the image and the reference.
        cached = compares and encode is None
        self.cache = ReferenceCache.open(
            lambda: fingerprint(
                model.named_parameters(), model_config(model), dict(process.scheduler().config),
                config.mixed_precision,
            ),
            config.reference_cache if cached else OFF,
        )  # fmt: skip
        self.drawn = PairDataset(
            pairs,
            process,
            config.timesteps_per_pair,
            config.seed,
            config.repeat_draws,
            keyed=self.cache.enabled,
        )
        policy = self._adapted(model) if config.rank else model.requires_grad_(True)
        self.reference = None
        if compares and not config.rank:
            # Not frozen, though it runs without gradients: on some CPUs torch multiplies by a
            # frozen matrix in another order, and the untouched policy would differ by rounding.
            self.reference = copy.deepcopy(policy).eval()
        trained = [p for p in policy.parameters() if p.requires_grad]
        optimizer = config.make_optimizer(trained)
        processes = self.accelerator.num_processes
        schedule = get_scheduler(
            config.lr_scheduler,
            optimizer,
            # Accelerate's scheduler takes a step for every process.
            num_warmup_steps=config.lr_warmup_steps * processes,
            num_training_steps=config.max_train_steps * processes,
        )
        self.policy, self.optimizer, self.schedule = self.accelerator.prepare(
            policy, optimizer, schedule
        )
        if self.reference is not None:
            self.reference.to(self.accelerator.device)
        self.ema = EMAModel(trained, decay=config.ema_decay) if config.use_ema else None
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
            self.accelerator.register_for_checkpointing(self.ema)
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        self.recent: deque[Tensor] = deque(maxlen=50)
        self.interrupts = Interrupts()

    # --- the loss of a batch ---

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch of B pairs, and figures of each pair, with shape (B)."""
        if self.encode is not None:
            batch = self.encode(batch)
        x, times, noise, conditions = self._stacked_sides(batch)
        x_t = self.process.noised(x, noise, times)
        target = self.process.target(x, noise, times)
        inputs = x_t, self.process.model_times(times), conditions
        shape = (len(self.sides), *batch["times"].shape)
        dpo, sft, negative = self.weights
        if self.config.compares:  # first: the policy's activations then find the memory it freed
            reference = self._reference_errors(batch, inputs, target).view(shape)
        error = errors(self._predict(self.policy, *inputs), target).view(shape)
        losses = (sft + negative) * error[0].mean(1)
        figures = {
            f"errors/{s}": e.mean(1).detach() for s, e in zip(self.sides, error, strict=True)
        }
        if self.config.compares:
            base_chosen, base_rejected = reference.mean(2)
            bound = self.config.negative_sft_bound * base_rejected
            losses = losses - negative * torch.minimum(error[1].mean(1), bound)
            kappa = self._kappa(batch["times"], x[0].numel())
            ratios = log_ratios(error, reference, kappa).mean(2)
            pairs = self.config.pair_losses(ratios[0], ratios[1], self.divergence, self.preference)
            losses = losses + dpo * pairs.losses
            figures |= {
                "base_errors/chosen": base_chosen,
                "base_errors/rejected": base_rejected,
                "log_ratios/chosen": ratios[0].detach(),
                "log_ratios/rejected": ratios[1].detach(),
                "rewards/margins": pairs.margins,
                "rewards/accuracies": (pairs.margins.sign() + 1) / 2,
                "tail_fraction": pairs.in_tail.float(),
            }
        return losses.mean(), {"loss": losses.detach(), **figures}

    def _stacked_sides(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Stacks chosen over rejected, each picture once for each of its draws."""
        sides, samples = len(self.sides), batch["times"].shape[1]
        x = torch.cat([batch[side] for side in self.sides]).repeat_interleave(samples, 0)
        times = batch["times"].flatten().repeat(sides)
        noise = torch.cat([batch["noise"].flatten(0, 1)] * sides)
        conditions = batch.get("conditions")
        if conditions is not None:
            conditions = _stacked([conditions[side] for side in self.sides], samples)
        return x, times, noise, conditions

    def _predict(self, model: nn.Module, x_t: Tensor, times: Tensor, conditions: Any) -> Tensor:
        # One autocast region per forward pass: a shared one would keep half-precision copies of
        # weights that an adapter's switch changes.
        with self.accelerator.autocast():
            return self.predict(model, x_t, times, **(conditions or {}))

    def _reference_errors(
        self, batch: Mapping[str, Any], inputs: Sequence[Any], target: Tensor
    ) -> Tensor:
        """Returns the reference's errors, from the cache where it holds them all."""

        def compute() -> Tensor:
            return errors(self._reference(*inputs), target)

        if not self.cache.enabled:
            return compute()
        keys = torch.cat([batch["keys"][side].flatten(0, 1) for side in self.sides])
        return self.cache.get_or_compute(keys, compute)

    @torch.no_grad()
    def _reference(self, *inputs: Any) -> Tensor:
        if self.reference is not None:
            return self._predict(self.reference, *inputs)
        policy = self.accelerator.unwrap_model(self.policy)
        with policy.disable_adapter():
            return self._predict(policy, *inputs)

    def _kappa(self, times: Tensor, dims: int) -> float | Tensor:
        if self.config.true_weight:
            kappa = dims * self.process.path_weights(times)
            return kappa.clamp(max=self.config.max_kappa).float()
        assert self.config.kappa is not None
        return self.config.kappa

    # --- training ---

    def train(self, checkpoint: str | Path | None = None, validate: Validate | None = None) -> None:
        """Trains to the last step; Ctrl-C leaves a checkpoint.

        Arguments:
            checkpoint: A checkpoint to go on from; by default training starts anew.
            validate: Called every ``validation_steps`` updates, by the first process, with the
                model as :meth:`finished` returns it; what it returns is logged.
        """
        if checkpoint is not None:
            self._resume(Path(checkpoint))
        self._start_trackers()
        loader = self._loader()
        if self.step == 0:
            self._require_equal_start(next(iter(loader)))
        self.interrupts.watch()
        self.begun = time.monotonic() - self.seconds
        bar = tqdm(
            total=self.config.max_train_steps,
            initial=self.step,
            desc="training",
            disable=not self.accelerator.is_main_process,
        )
        figures: list[dict[str, Tensor]] = []
        self.policy.train()
        for batch in loader:
            with self.accelerator.accumulate(self.policy):
                loss, found = self.compute_loss(batch)
                self._stop_if_not_finite(found["loss"], batch["index"])
                figures.append(found)
                self.accelerator.backward(loss)
                norm = self._clip()
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()
            if not self.accelerator.sync_gradients:
                continue
            self.step += 1
            self.seconds = time.monotonic() - self.begun
            if self.ema is not None:
                self.ema.step(self._trained())
            bar.update()
            self._record(figures, norm, bar)
            figures = []
            self._validate(validate)
            stopped = self.interrupts.any_process_stopped()
            if stopped or self.step % self.config.checkpointing_steps == 0:
                self.save_checkpoint()
            if stopped:
                break
        bar.close()
        self._save_cache()
        self.interrupts.release()

    def _validate(self, validate: Validate | None) -> None:
        every = self.config.validation_steps
        if validate is None or not every or self.step % every:
            return
        if self.accelerator.is_main_process:
            begun = time.monotonic()
            held = [p.detach().clone() for p in self._trained()]
            found = validate(self.finished())
            for parameter, value in zip(self._trained(), held, strict=True):
                parameter.data.copy_(value)  # finished() put the moving average there
            self._log({"step": self.step, **{f"validation/{k}": v for k, v in found.items()}})
            self.begun += time.monotonic() - begun  # the seconds are those of training
        self.accelerator.wait_for_everyone()
        self.policy.train()

    def finished(self) -> nn.Module:
        """Returns the trained model (the moving average, where it is kept), adapter and all."""
        if self.ema is not None:
            self.ema.copy_to(self._trained())
        return self.accelerator.unwrap_model(self.policy).eval()

    def merged(self) -> nn.Module:
        """Returns the trained model as one of the kind it came from, an adapter folded in."""
        model: Any = self.finished()
        return copy.deepcopy(model).merge_and_unload() if self.config.rank else model

    def quantiles(self) -> dict[str, float]:
        """Returns quantiles of the recent log-ratios: where on the link the pairs are."""
        if not self.recent:
            return {}
        values = torch.cat(list(self.recent))  # (pairs, 2)
        found = values.quantile(torch.tensor(QUANTILES), dim=0)
        return {
            f"log_ratio_{side}_q{100 * q:02.0f}": found[i, j].item()
            for j, side in enumerate(SIDES)
            for i, q in enumerate(QUANTILES)
        }

    def save_checkpoint(self) -> None:
        """Saves everything that training goes on with, and removes the oldest."""
        self._save_cache()
        folder = Path(self.config.output_dir or ".") / f"checkpoint-{self.step}"
        self.accelerator.save_state(str(folder))
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        state = {"step": self.step, "seconds": self.seconds, "log": self.log}
        runs.write_json(folder / STATE, state)
        found = sorted(folder.parent.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        for old in found[: -self.config.checkpoints_total_limit]:
            shutil.rmtree(old)

    def _save_cache(self) -> None:
        self.cache.save()

    def _resume(self, checkpoint: Path) -> None:
        self.accelerator.load_state(str(checkpoint))
        state = runs.read_json(checkpoint / STATE)
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]

    def _loader(self) -> Any:
        config, processes = self.config, self.accelerator.num_processes
        update = config.train_batch_size * config.gradient_accumulation_steps * processes
        order: Any = ResumableSampler(
            len(self.drawn),
            (config.max_train_steps - self.step) * update,
            self.step * update,
            config.seed,
        )
        loader: Any = DataLoader(
            self.drawn,
            batch_sampler=BatchSampler(order, config.train_batch_size, drop_last=True),
            num_workers=config.dataloader_num_workers,
        )
        return self.accelerator.prepare_data_loader(loader)

    def _adapted(self, model: nn.Module) -> nn.Module:
        config = self.config
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.lora_alpha or config.rank,
            target_modules=list(config.lora_target_modules),
        )
        try:
            return get_peft_model(model, lora)
        except ValueError as error:
            raise ValueError(f"--lora_target_modules: {error}") from error

    def _trained(self) -> Iterator[nn.Parameter]:
        return (p for p in self.policy.parameters() if p.requires_grad)

    def _clip(self) -> float:
        if not self.accelerator.sync_gradients:
            return 0.0
        norm = self.accelerator.clip_grad_norm_(self._trained(), self.config.max_grad_norm)
        return 0.0 if norm is None else float(norm)

    def _require_equal_start(self, batch: Mapping[str, Any]) -> None:
        """Before the first step policy and reference are the same, bit for bit."""
        if len(self.sides) == 1:
            return
        self.policy.train()
        cache, self.cache = (
            self.cache,
            ReferenceCache(None),
        )  # whose values may come from other batches
        with torch.no_grad():
            _, figures = self.compute_loss(batch)
        self.cache = cache
        furthest = max(figures[f"log_ratios/{side}"].abs().max() for side in SIDES)
        if furthest > 0:
            raise RuntimeError(
                f"the untouched policy differs from its reference (a log-ratio of {furthest:.3g}): "
                "is there dropout in the model?"
            )

    def _stop_if_not_finite(self, losses: Tensor, index: Tensor) -> None:
        wrong = ~torch.isfinite(losses)
        if wrong.any():
            pair = index.to(wrong.device)[wrong][0].item()
            raise FloatingPointError(
                f"step {self.step + 1}: the loss of pair {pair} is {losses[wrong][0].item():g}"
            )

    # --- the log ---

    def _start_trackers(self) -> None:
        if self.config.report_to != "none":
            options = {
                name: value if isinstance(value, int | float | bool) else str(value)
                for name, value in vars(self.config).items()
            }
            self.accelerator.init_trackers("fdpo", options)

    def _record(self, figures: list[dict[str, Tensor]], norm: float, bar: Any) -> None:
        """Keeps the figures of an update, gathered from all processes."""
        table = torch.stack([torch.cat([f[name] for f in figures]) for name in figures[0]], dim=1)
        table = self.accelerator.gather(table).cpu()
        names = list(figures[0])
        if "log_ratios/chosen" in names:
            first = names.index("log_ratios/chosen")
            self.recent.append(table[:, first : first + 2])
        means = dict(zip(names, table.mean(0).tolist(), strict=True))
        rate = self.schedule.get_last_lr()[0]
        row = {"step": self.step, **means, "grad_norm": norm, "learning_rate": rate}
        if self.step % self.config.logging_steps and self.step != self.config.max_train_steps:
            return
        bar.set_postfix_str(_brief(row))
        self._log(row)

    def _log(self, row: dict[str, Any]) -> None:
        self.log.append(row)
        if self.config.report_to != "none":
            self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=self.step)
        if self.accelerator.is_main_process:
            runs.write_jsonl(Path(self.config.output_dir or ".") / LOG, self.log)


def _brief(row: Mapping[str, float]) -> str:
    shown = {
        "loss": "loss",
        "log_ratios/chosen": "chosen",
        "log_ratios/rejected": "rejected",
        "rewards/accuracies": "accuracy",
    }
    return ", ".join(f"{label} {row[name]:.3g}" for name, label in shown.items() if name in row)


def _stacked(sides: Sequence[Any], samples: int) -> Any:
    """Conditions of the sides, in the order of the pictures; mappings go deeper."""
    if isinstance(sides[0], Mapping):
        return {name: _stacked([side[name] for side in sides], samples) for name in sides[0]}
    return torch.cat(list(sides)).repeat_interleave(samples, 0)
