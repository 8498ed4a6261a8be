r"""f-DPO for language models, on TRL's trainer.

With :math:`\ell(y) = \log \pi_\theta(y \mid x) - \log \pi_\text{ref}(y \mid x)`, summed over the
tokens of a completion in fp32, the trainer's whole part in the mathematics is to produce
:math:`\ell_w` and :math:`\ell_l` for each pair; :func:`fdpo.fdpo_loss` does the rest.

The loss enters through the documented extension point of ``trl.DPOTrainer``, its public
``compute_loss``; what else of TRL this relies on is listed in ``tests/llm/test_contract.py``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOTrainer
from trl.trainer.utils import use_adapter

from fdpo.divergences.members import Divergence
from fdpo.llm.cards import describe_loss
from fdpo.llm.collator import PAIR, PairCollator
from fdpo.llm.config import FDPOConfig
from fdpo.llm.data import as_pairs
from fdpo.llm.forward import model_inputs, packing_obstacle, scored, sums
from fdpo.llm.sampler import PairSampler
from fdpo.losses.fdpo import LossOutput
from fdpo.preferences.pairs import SIDES, PairingConfig
from fdpo.runs.cache import OFF, ReferenceCache, fingerprint, model_config

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)  # weights in pieces


class FDPOTrainer(DPOTrainer):
    """A ``trl.DPOTrainer`` whose reward is the link of any f-divergence.

    It takes what ``DPOTrainer`` takes, with an :class:`FDPOConfig`, and trains on the same
    datasets, and on scored groups (``prompt, completions, scores``), whose pairs ``rank`` makes. A
    fully fine-tuned policy is compared with ``ref_model`` (by default the checkpoint it came from),
    an adapter with the same weights without it.

    A completion that stands in several pairs of a batch is run once, pairs of one prompt fall into
    the same batch where they can, a prompt is run once for all its completions where that saves
    work, and the reference's log-probabilities are kept on disk: none of it changes the loss.

    Beyond TRL's metrics (of which ``rewards/*`` become :math:`βg(ℓ)`) it logs, per side, the mean
    log-ratio ``log_ratios/*`` and slope ``slopes/*``, and ``tail_fraction``, the share of pairs
    with a log-ratio on a straight piece of the link.

    Arguments:
        model: As for ``DPOTrainer``: an id, a folder, a model, or a PEFT model.
        args: The configuration; ``FDPOConfig()`` by default.
        divergence: A divergence object, in place of the one that ``args.loss`` names.
        rank: How scored groups become pairs.
        dataset_name: What the model card calls the data.
        **kwargs: Everything else of ``DPOTrainer``: ``ref_model``, ``train_dataset``,
            ``eval_dataset``, ``processing_class``, ``peft_config``, ``callbacks`` …

    Raises:
        FloatingPointError: If a loss or a gradient is not finite, naming the step and the pair.
    """

    args: FDPOConfig
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: Any,
        args: FDPOConfig | None = None,
        *,
        divergence: Divergence | None = None,
        rank: PairingConfig | None = None,
        dataset_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        args = FDPOConfig() if args is None else args
        named, self.preference = args.resolve()
        self.divergence = named if divergence is None else divergence
        self.dataset_name = dataset_name
        self.recent: list[Tensor] = []  # the numbers of the pairs since the last update
        self.means: dict[str, dict[str, list[float]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }
        self.tokens_seen = 0
        self.held_out: dict[int, float] = {}  # margins by pair, of the last evaluation
        if kwargs.get("processing_class") is None:
            name = model if isinstance(model, str) else model.name_or_path
            kwargs["processing_class"] = AutoTokenizer.from_pretrained(name)
        tokenizer = kwargs["processing_class"]
        if kwargs.get("data_collator") is None and isinstance(tokenizer, PreTrainedTokenizerBase):
            kwargs["data_collator"] = pair_collator(tokenizer, args)
        for name in ("train_dataset", "eval_dataset"):
            if kwargs.get(name) is not None:
                kwargs[name] = as_pairs(kwargs[name], name, rank)
        super().__init__(model, args=args, **kwargs)
        self.train_dataset = numbered(self.train_dataset)
        self.eval_dataset = numbered(self.eval_dataset)
        self._share_prompts()
        self.add_callback(FiniteGradients(self))

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Computes the f-DPO loss of a batch of pairs, chosen ones stacked over rejected."""
        if self.model.training and PAIR in inputs:
            self.recent.append(inputs[PAIR])
        outputs = self._scored(model, inputs)
        log_probs = sums(outputs.log_probs, inputs["sizes"])
        chosen, rejected = log_probs[inputs["pairs"]].unbind(1)
        ref_chosen, ref_rejected = self._reference_log_probs(inputs)
        log_ratios = chosen - ref_chosen, rejected - ref_rejected
        pairs = self.args.pair_losses(*log_ratios, self.divergence, self.preference)
        lengths = inputs["sizes"][inputs["pairs"][:, 0]].clamp(min=1)
        losses = pairs.losses - self.args.sft_weight * chosen / lengths
        loss = losses.mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        with torch.no_grad():
            self._record_pairs(inputs.get(PAIR), losses, (chosen, rejected), log_ratios, pairs)
            self._record_tokens(inputs, outputs)
        if return_outputs:
            with torch.no_grad():
                return loss, model(**model_inputs(inputs))
        return loss

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Computes the reference's log-probabilities of a batch's chosen and rejected sides.

        Those that the cache holds are read there.
        """
        log_probs = self.reference_cache.get_or_compute(
            inputs["keys"], lambda: self._reference_sums(model, inputs)
        )
        chosen, rejected = log_probs[inputs["pairs"]].unbind(1)
        return chosen, rejected

    def get_train_dataloader(self) -> DataLoader:
        """Returns batches of pairs in random order, those of one prompt together."""
        args, data = self.args, self.train_dataset
        if not isinstance(data, Dataset) or args.train_sampling_strategy != "random":
            return super().get_train_dataloader()
        update = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        sizes = zip(*(map(len, data[f"{side}_ids"]) for side in SIDES), strict=True)
        prompts = [tuple(ids) for ids in data["prompt_ids"]]
        lengths = [len(p) + max(both) for p, both in zip(prompts, sizes, strict=True)]
        loader: Any = DataLoader(
            data,
            batch_size=args.train_batch_size,
            sampler=PairSampler(prompts, lengths, update, seed),
            collate_fn=self.data_collator,
            drop_last=args.dataloader_drop_last,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def held_out_margins(self) -> tuple[Tensor, list[str]]:
        r"""Evaluates, and returns the margin and the prompt of each pair of ``eval_dataset``.

        The margins :math:`m = \beta(g(\ell_w) - g(\ell_l))` have shape (N), in float32.
        """
        self.held_out = {}
        self.evaluate()
        margins = torch.tensor([self.held_out[pair] for pair in range(len(self.held_out))])
        return margins, [str(prompt) for prompt in self.eval_dataset["prompt"]]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last call to the trainer's own figures, and logs both."""
        mode = "train" if self.model.training else "eval"
        prefix = "" if mode == "train" else "eval_"
        means = {prefix + name: sum(v) / len(v) for name, v in self.means[mode].items()}
        logs.update(means)
        super().log(logs, start_time)
        self.means[mode].clear()

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Writes TRL's model card with a section on the divergence, its strength and the data."""
        dataset_name = dataset_name or self.dataset_name
        super().create_model_card(
            model_name, dataset_name, ["f-dpo", *([tags] if isinstance(tags, str) else tags or [])]
        )
        if self.is_world_process_zero():
            card = Path(self.args.output_dir) / "README.md"
            section = describe_loss(self.args, self.divergence, self.preference, dataset_name)
            card.write_text(card.read_text() + section)

    def check_gradients(self) -> None:
        """Raises ``FloatingPointError``, naming the pair, if a gradient is not finite."""
        if self._finite_gradients():
            return
        raise FloatingPointError(
            f"step {self.state.global_step + 1}: the gradient of {self._culprit()} is not finite; "
            "the weights are those of the step before"
        )

    @cached_property
    def reference_cache(self) -> ReferenceCache:
        """The reference's log-probabilities on disk; disabled where they cannot be kept."""
        sharded = self.accelerator.distributed_type in SHARDED
        if self.args.reference_cache == OFF or self.args.sync_ref_model or sharded:
            return ReferenceCache(None)
        model = self.model if self.ref_model is None else self.ref_model
        bare = self.accelerator.unwrap_model(model)
        adapters = set(bare.peft_config) - {"ref"} if isinstance(bare, PeftModel) else set()
        weights = [
            (name, value)
            for name, value in bare.named_parameters()
            if not adapters & set(name.split("."))
        ]
        precision, attention = self.accelerator.mixed_precision, bare.config._attn_implementation
        return ReferenceCache.open(
            lambda: fingerprint(weights, model_config(bare), precision, attention),
            self.args.reference_cache,
        )

    def _share_prompts(self) -> None:
        """Lets the collator put completions into a row with their prompt, where the model can."""
        if self.args.shared_prompts is False or not isinstance(self.data_collator, PairCollator):
            return
        sharded = self.accelerator.distributed_type in SHARDED
        reason = "its weights are sharded" if sharded else packing_obstacle(self.model)
        if not reason:
            self.data_collator.hidden_size = self.model.config.get_text_config().hidden_size
        elif self.args.shared_prompts:
            raise ValueError(f"--shared_prompts: this model cannot share prompts: {reason}")

    def _scored(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        more = {"output_router_logits": True} if self.aux_loss_enabled else {}
        return scored(model, inputs, self.accelerator.unwrap_model(model), **more)

    def _reference_log_probs(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if self.precompute_ref_logps:
            return inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        return self.compute_ref_log_probs(self.ref_model or self.model, inputs)

    @torch.no_grad()
    def _reference_sums(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        bare = self.accelerator.unwrap_model(model)
        without = nullcontext()
        if self.ref_model is None and isinstance(bare, PeftModel):
            without = use_adapter(bare, "ref" if "ref" in bare.peft_config else None)
        with without, self.accelerator.autocast():
            return sums(scored(model, inputs, bare).log_probs, inputs["sizes"])

    def _record_pairs(
        self,
        index: Tensor | None,
        losses: Tensor,
        log_probs: tuple[Tensor, Tensor],
        log_ratios: tuple[Tensor, Tensor],
        pairs: LossOutput,
    ) -> None:
        index = torch.full_like(losses, -1, dtype=torch.long) if index is None else index
        columns = {
            "losses": losses,
            "logps/chosen": log_probs[0],
            "logps/rejected": log_probs[1],
            "log_ratios/chosen": log_ratios[0],
            "log_ratios/rejected": log_ratios[1],
            "rewards/chosen": pairs.chosen_rewards,
            "rewards/rejected": pairs.rejected_rewards,
            "rewards/margins": pairs.margins,
            "rewards/accuracies": pairs.chosen_rewards > pairs.rejected_rewards,
            "slopes/chosen": pairs.chosen_slopes,
            "slopes/rejected": pairs.rejected_slopes,
            "tail_fraction": pairs.in_tail,
        }
        # One collective call, and one copy to the host, for all of them.
        table = torch.stack([column.float() for column in (index, *columns.values())], dim=1)
        table = self.accelerator.gather_for_metrics(table).cpu()
        numbers, values = table[:, 0].long().tolist(), table[:, 1:]
        self._stop_if_not_finite(numbers, values)
        mode = "train" if self.model.training else "eval"
        for name, mean in zip(columns, values.mean(dim=0).tolist(), strict=True):
            if name != "losses":
                self.means[mode][name].append(mean)
        if mode == "eval":
            margins = values[:, list(columns).index("rewards/margins")]
            self.held_out.update(zip(numbers, margins.tolist(), strict=True))
        elif self.args.log_pairs and self.is_world_process_zero():
            self._write_pairs(numbers, list(columns), values.tolist())

    def _stop_if_not_finite(self, numbers: list[int], values: Tensor) -> None:
        for number, row in zip(numbers, values, strict=True):
            if not torch.isfinite(row[0]):
                raise FloatingPointError(
                    f"step {self.state.global_step + 1}: the loss of {self._pair_name(number)} is "
                    f"{row[0]:g} (log-ratios {row[3]:g} and {row[4]:g})"
                )

    def _write_pairs(self, numbers: list[int], names: list[str], rows: list[list[float]]) -> None:
        beta = self.args.beta
        with open(Path(self.args.output_dir) / "pairs.jsonl", "a", encoding="utf-8") as file:
            for number, row in zip(numbers, rows, strict=True):
                value = dict(zip(names, row, strict=True))
                line = {
                    "step": self.state.global_step,
                    "pair": number,
                    "loss": value["losses"],
                    "in_tail": bool(value["tail_fraction"]),
                }
                for side in ("chosen", "rejected"):
                    line[f"{side}_log_ratio"] = value[f"log_ratios/{side}"]
                    line[f"{side}_link"] = value[f"rewards/{side}"] / beta
                    line[f"{side}_slope"] = value[f"slopes/{side}"]
                file.write(json.dumps(line) + "\n")

    def _record_tokens(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Records TRL's own figures of the policy's tokens, each token weighing the same."""
        mode = "train" if self.model.training else "eval"
        pairs, mask = inputs["pairs"], inputs["attention_mask"]

        def by_side(values: Tensor) -> list[Tensor]:
            return list(sums(values, inputs["sizes"])[pairs].sum(dim=0))

        chosen_size, rejected_size = inputs["sizes"][pairs].sum(dim=0)
        figures = torch.stack(
            [
                torch.stack(by_side(outputs.entropy)).sum(),
                *by_side(outputs.mean_logits),
                by_side(outputs.is_top1)[0],
                chosen_size,
                rejected_size,
                mask.sum(),
                torch.tensor(mask.numel(), device=mask.device),
            ]
        )
        gathered = self.accelerator.gather_for_metrics(figures.float()[None]).sum(dim=0).tolist()
        entropy, chosen_logits, rejected_logits, right, chosen, rejected, size, room = gathered
        metrics = {
            "entropy": entropy / max(1, chosen + rejected),
            "logits/chosen": chosen_logits / max(1, chosen),
            "logits/rejected": rejected_logits / max(1, rejected),
            "mean_token_accuracy": right / max(1, chosen),
            "padded_fraction": 1 - size / room,
        }
        if self.aux_loss_enabled:
            aux_loss = self.accelerator.gather_for_metrics(outputs.aux_loss.detach())
            metrics["aux_loss"] = aux_loss.mean().item()
        for name, value in metrics.items():
            self.means[mode][name].append(value)
        if mode == "train":
            self.tokens_seen += int(size)
        self.means[mode]["num_tokens"] = [self.tokens_seen]

    def _pair_name(self, number: int) -> str:
        if number < 0:
            return "a pair of this batch"
        dataset = self.train_dataset if self.model.training else self.eval_dataset
        prompt = dataset[number].get("prompt") if isinstance(dataset, Dataset) else None
        return f"pair {number}" + (f" ({str(prompt)[:60]!r})" if prompt else "")

    def _finite_gradients(self) -> bool:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def _culprit(self) -> str:
        """Finds the pair of the last update whose own gradient is not finite, one by one."""
        if self.accelerator.num_processes > 1:  # whose backward passes would wait for one another
            return "a pair of the last update"
        self.model.eval()  # a diagnosis is no training step: it is neither kept nor logged as one
        for number in [number for numbers in self.recent for number in numbers.tolist()]:
            pair = self._prepare_inputs(self.data_collator([self.train_dataset[number]]))
            self.model.zero_grad()
            self.compute_loss(self.model, pair).backward()
            if not self._finite_gradients():
                self.model.train()
                return self._pair_name(number)
        self.model.train()
        return "the last update"


class FiniteGradients(TrainerCallback):
    """Stops a run at a gradient that is not finite, and keeps the reference's log-probabilities."""

    def __init__(self, trainer: FDPOTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.recent.clear()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.fp16:  # whose loss scaler skips such steps and lowers its scale
            self.trainer.check_gradients()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.reference_cache.save()

    on_train_end = on_evaluate = on_save


def pair_collator(tokenizer: PreTrainedTokenizerBase, args: FDPOConfig) -> PairCollator:
    """Makes the collator as TRL would, padding with the end token where there is no other."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return PairCollator(
        pad_token_id=tokenizer.pad_token_id,
        max_length=args.max_length,
        truncation_mode=args.truncation_mode,
        pad_to_multiple_of=args.pad_to_multiple_of,
        eos_token_id=tokenizer.eos_token_id,
    )


def numbered(data: Any) -> Any:
    """Gives each row of a dataset, or of each in a dictionary, its number."""
    if isinstance(data, dict):
        return {name: numbered(dataset) for name, dataset in data.items()}
    if isinstance(data, Dataset):
        return data.add_column(PAIR, list(range(len(data))))
    return data
