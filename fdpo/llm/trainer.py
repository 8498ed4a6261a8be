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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from fdpo.divergences import Divergence
from fdpo.llm.cards import describe_loss
from fdpo.llm.config import FDPOConfig
from fdpo.losses import FDPOLoss

PAIR = "pair_index"


@dataclass
class PairCollator(DataCollatorForPreference):
    """TRL's collator, which also takes back the end token of completions that were cut.

    TRL ends every text with the end token; a completion that stopped at a length limit did not end
    there, and must not teach the policy that it did. Rows say so in ``chosen_truncated`` and
    ``rejected_truncated``. Where rows carry their number, the batch does too.
    """

    eos_token_id: int | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call([self._without_false_ends(example) for example in examples])
        if PAIR in examples[0]:
            batch[PAIR] = torch.tensor([example[PAIR] for example in examples])
        return batch

    def _without_false_ends(self, example: dict[str, Any]) -> dict[str, Any]:
        cut = {}
        for side in ("chosen", "rejected"):
            ids = example[f"{side}_ids"]
            if example.get(f"{side}_truncated") and ids and ids[-1] == self.eos_token_id:
                cut[f"{side}_ids"] = ids[:-1]
        return {**example, **cut}


class FDPOTrainer(DPOTrainer):
    """A ``trl.DPOTrainer`` whose reward is the link of any f-divergence.

    It takes what ``DPOTrainer`` takes, with an :class:`FDPOConfig`, and trains on the same
    datasets. A fully fine-tuned policy is compared with ``ref_model`` (by default the checkpoint
    it came from), an adapter with the same weights without it.

    Beyond TRL's metrics (of which ``rewards/*`` become :math:`βg(ℓ)`) it logs, per side, the mean
    log-ratio ``log_ratios/*`` and slope ``slopes/*``, and ``tail_fraction``, the share of pairs
    with a log-ratio on a straight piece of the link.

    Arguments:
        model: As for ``DPOTrainer``: an id, a folder, a model, or a PEFT model.
        args: The configuration; ``FDPOConfig()`` by default.
        divergence: A divergence object, in place of the one that ``args.loss`` names.
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
        dataset_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        args = FDPOConfig() if args is None else args
        named, self.preference = args.resolve()
        self.divergence = named if divergence is None else divergence
        self.dataset_name = dataset_name
        self.recent: list[dict[str, Any]] = []  # the batches since the last update
        self.means: dict[str, dict[str, list[float]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }
        self.tokens_seen = 0
        if kwargs.get("processing_class") is None:
            name = model if isinstance(model, str) else model.name_or_path
            kwargs["processing_class"] = AutoTokenizer.from_pretrained(name)
        tokenizer = kwargs["processing_class"]
        if kwargs.get("data_collator") is None and isinstance(tokenizer, PreTrainedTokenizerBase):
            kwargs["data_collator"] = pair_collator(tokenizer, args)
        super().__init__(model, args=args, **kwargs)
        self.train_dataset = numbered(self.train_dataset)
        self.eval_dataset = numbered(self.eval_dataset)
        self.add_callback(Guard(self))

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Computes the f-DPO loss of a batch of pairs, chosen ones stacked over rejected."""
        inputs = dict(inputs)
        index = inputs.pop(PAIR, None)
        if self.model.training:
            self.recent.append({**inputs, PAIR: index})
        outputs = model(**self._model_inputs(inputs), fused_lm_head=True)
        mask = inputs["completion_mask"][:, 1:]
        # Prompt-learning adapters put virtual tokens in front: keep the last positions.
        log_probs = outputs.log_probs[:, -mask.shape[1] :].float()
        chosen, rejected = log_probs.sum(dim=1).chunk(2)
        ref_chosen, ref_rejected = self._reference_log_probs(inputs)
        log_ratios = chosen - ref_chosen, rejected - ref_rejected
        pairs = self.args.pair_losses(*log_ratios, self.divergence, self.preference)
        lengths = mask.sum(dim=1).clamp(min=1).chunk(2)
        losses = pairs.losses - self.args.sft_weight * chosen / lengths[0]
        loss = losses.mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        with torch.no_grad():
            self._record_pairs(index, losses, (chosen, rejected), log_ratios, pairs)
            self._record_tokens(inputs, outputs, mask)
        if return_outputs:
            with torch.no_grad():
                return loss, model(**self._model_inputs(inputs, labels=False))
        return loss

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

    def _model_inputs(self, inputs: Mapping[str, Any], labels: bool = True) -> dict[str, Any]:
        ours = {"completion_mask", "ref_chosen_logps", "ref_rejected_logps"}
        kwargs = {name: value for name, value in inputs.items() if name not in ours}
        kwargs["use_cache"] = False
        if labels:
            mask = inputs["completion_mask"]
            kwargs["labels"] = inputs["input_ids"].masked_fill(mask == 0, -100)
        if self.aux_loss_enabled:
            kwargs["output_router_logits"] = True
        return kwargs

    def _reference_log_probs(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if self.precompute_ref_logps:
            chosen, rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            model = self.model if self.ref_model is None else self.ref_model
            chosen, rejected = self.compute_ref_log_probs(model, inputs)
        return chosen.float(), rejected.float()

    def _record_pairs(
        self,
        index: Tensor | None,
        losses: Tensor,
        log_probs: tuple[Tensor, Tensor],
        log_ratios: tuple[Tensor, Tensor],
        pairs: FDPOLoss,
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
        if self.args.log_pairs and mode == "train" and self.is_world_process_zero():
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

    def _record_tokens(self, inputs: Mapping[str, Any], outputs: Any, mask: Tensor) -> None:
        """Records TRL's own figures of the policy's tokens, each token weighing the same."""
        mode = "train" if self.model.training else "eval"
        width = mask.shape[1]
        mask = mask.bool()
        chosen, rejected = mask.chunk(2)
        logits = (outputs.mean_logits[:, -width:] * mask).sum(dim=1).chunk(2)
        sums = torch.stack(
            [
                (outputs.entropy[:, -width:] * mask).sum(),
                logits[0].sum(),
                logits[1].sum(),
                (outputs.is_top1[:, -width:].chunk(2)[0] & chosen).sum(),
                chosen.sum(),
                rejected.sum(),
                inputs["attention_mask"].sum(),
            ]
        )
        gathered = self.accelerator.gather_for_metrics(sums.float()[None]).sum(dim=0).tolist()
        entropy, chosen_logits, rejected_logits, right, chosen_size, rejected_size, size = gathered
        metrics = {
            "entropy": entropy / max(1, chosen_size + rejected_size),
            "logits/chosen": chosen_logits / max(1, chosen_size),
            "logits/rejected": rejected_logits / max(1, rejected_size),
            "mean_token_accuracy": right / max(1, chosen_size),
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
        for pair in [pair for batch in self.recent for pair in single_pairs(batch)]:
            self.model.zero_grad()
            self.compute_loss(self.model, pair).backward()
            if not self._finite_gradients():
                self.model.train()
                return self._pair_name(int(pair[PAIR]) if PAIR in pair else -1)
        self.model.train()
        return "the last update"


class Guard(TrainerCallback):
    """Stops a run at a gradient that is not finite, before the optimiser sees it."""

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


def single_pairs(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Takes a batch apart into batches of one pair."""
    given = {name: value for name, value in batch.items() if value is not None}
    size = len(given["input_ids"]) // 2
    return [
        {k: v[[i, size + i]] if len(v) == 2 * size else v[[i]] for k, v in given.items()}
        for i in range(size)
    ]


def numbered(data: Any) -> Any:
    """Gives each row of a dataset, or of each in a dictionary, its number."""
    if isinstance(data, dict):
        return {name: numbered(dataset) for name, dataset in data.items()}
    if isinstance(data, Dataset):
        return data.add_column(PAIR, list(range(len(data))))
    return data
