r"""f-DPO for language models, on TRL's trainer.

With :math:`\ell(y) = \log \pi_\theta(y \mid x) - \log \pi_\text{ref}(y \mid x)`, summed over the
tokens of a completion in fp32, the trainer produces :math:`\ell_w` and :math:`\ell_l` of each
pair; :mod:`fdpo.llm.loss` computes the loss from them.

The loss enters through the documented extension point of ``trl.DPOTrainer``, its public
``compute_loss``; ``tests/llm/test_contract.py`` lists everything else of TRL that this relies on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer

from fdpo.cards import loss_section
from fdpo.divergences.base import Divergence
from fdpo.llm.callbacks import FiniteGradients, SaveReferenceCache
from fdpo.llm.collator import PairBatch, PairCollator
from fdpo.llm.config import FDPOConfig
from fdpo.llm.data import (
    as_pairs,
    check_left_out,
    pair_name,
    with_pair_index,
    with_sampled_tokens,
)
from fdpo.llm.forward import model_inputs, packing_obstacle, sum_by_completion, token_log_probs
from fdpo.llm.loss import pair_losses
from fdpo.llm.metrics import Means, Mode, PairMetrics, append_pairs, token_metrics
from fdpo.llm.models import policy_and_reference, requested_source
from fdpo.llm.reference import Reference, has_sharded_weights
from fdpo.llm.sampler import PairSampler
from fdpo.preferences.pairs import SIDES, PairingConfig
from fdpo.runs.cache import OFF


class FDPOTrainer(DPOTrainer):
    """A ``trl.DPOTrainer`` whose reward is the link of any f-divergence.

    It takes the arguments of ``DPOTrainer``, with an :class:`FDPOConfig`, and trains on the same
    datasets, and on scored groups (``prompt, completions, scores``), whose pairs ``pairing``
    chooses. A fully fine-tuned policy is compared with ``ref_model`` (by default the checkpoint it
    came from), an adapter with the same weights without it.

    A completion that occurs in several pairs of a batch is run once, pairs of one prompt fall into
    the same batch where they can, a prompt is run once for all its completions where that saves
    work, and the reference's log-probabilities are cached on disk: none of it changes the loss.

    Beyond TRL's metrics (of which ``rewards/*`` become :math:`βg(ℓ)`) it logs, per side, the mean
    log-ratio ``log_ratios/*`` and slope ``slopes/*``, and ``tail_fraction``, the share of pairs
    with a log-ratio on a straight piece of the link.

    Arguments:
        model: As for ``DPOTrainer``: an id, a folder, a model, or a PEFT model.
        args: The configuration; ``FDPOConfig()`` by default.
        divergence: A divergence object, in place of the one that ``args.loss`` names.
        pairing: The rule that makes pairs of scored groups.
        dataset_name: The name of the data in the model card.
        **kwargs: Everything else of ``DPOTrainer``: ``ref_model``, ``train_dataset``,
            ``eval_dataset``, ``processing_class``, ``peft_config``, ``callbacks`` …

    Raises:
        FloatingPointError: If a loss or a gradient is not finite, naming the step and the pair.

    Example:
        .. code-block:: python

            trainer = FDPOTrainer(
                "Qwen/Qwen2.5-0.5B-Instruct",
                FDPOConfig(loss="alpha", alpha=0.5, beta=0.1),
                train_dataset=load_dataset("trl-lib/ultrafeedback_binarized", split="train"),
            )
            trainer.train()
    """

    args: FDPOConfig
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any

    def __init__(
        self,
        model: Any,
        args: FDPOConfig | None = None,
        *,
        divergence: Divergence | None = None,
        pairing: PairingConfig | None = None,
        dataset_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        args = FDPOConfig() if args is None else args
        named, self.preference = args.resolve()
        self.divergence = named if divergence is None else divergence
        self.dataset_name = dataset_name
        self.means = Means()
        self.tokens_seen = 0
        self.recent_pairs: list[Tensor] = []  # indices of the pairs since the last update
        self.margins: dict[int, float] = {}  # by index, of the last evaluation
        self.source = requested_source(model, args)
        if kwargs.get("processing_class") is None:
            kwargs["processing_class"] = self.source.tokenizer()
        tokenizer = kwargs["processing_class"]
        if kwargs.get("data_collator") is None and isinstance(tokenizer, PreTrainedTokenizerBase):
            kwargs["data_collator"] = make_collator(tokenizer, args)
        for name in ("train_dataset", "eval_dataset"):
            if kwargs.get(name) is not None:
                kwargs[name] = as_pairs(kwargs[name], name, pairing)
        model, kwargs["ref_model"] = policy_and_reference(
            self.source, model, kwargs.get("ref_model"), kwargs.get("peft_config"), args
        )
        super().__init__(model, args=args, **kwargs)
        self.train_dataset = with_pair_index(self.train_dataset)
        self.eval_dataset = with_pair_index(self.eval_dataset)
        self._pack_rows()
        self.add_callback(FiniteGradients(self))
        self.add_callback(SaveReferenceCache(self.reference))

    @cached_property
    def reference(self) -> Reference:
        """The frozen reference, with the cache of its log-probabilities."""
        return Reference(
            self.accelerator,
            self.model if self.ref_model is None else self.ref_model,
            shares_policy=self.ref_model is None,
            cache_folder=OFF if self.args.sync_ref_model else self.args.reference_cache,
        )

    @property
    def mode(self) -> Mode:
        """The mode of the model, and of the metrics it produces."""
        return "train" if self.model.training else "eval"

    def compute_loss(
        self,
        model: Any,
        inputs: PairBatch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Computes the f-DPO loss of a batch of pairs."""
        if self.model.training and "pair_index" in inputs:
            self.recent_pairs.append(inputs["pair_index"])
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        unwrapped = self.accelerator.unwrap_model(model)
        outputs = token_log_probs(model, inputs, unwrapped, **router)
        num_targets, pairs = inputs["num_targets"], inputs["pairs"]
        chosen, rejected = sum_by_completion(outputs.log_probs, num_targets)[pairs].unbind(1)
        losses, metrics = pair_losses(
            (chosen, rejected),
            self._reference_log_probs(inputs),
            num_targets[pairs[:, 0]],
            self.args,
            divergence=self.divergence,
            preference=self.preference,
        )
        loss = losses.mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        with torch.no_grad():
            self._record_pairs(inputs.get("pair_index"), metrics)
            self._record_tokens(inputs, outputs)
        if return_outputs:
            with torch.no_grad():
                return loss, model(**model_inputs(inputs))
        return loss

    def compute_ref_log_probs(self, model: Any, inputs: PairBatch) -> tuple[Tensor, Tensor]:
        """Returns the reference's log-probabilities of the chosen and rejected sides of a batch.

        Those that are not in the cache are computed.
        """
        log_probs = self.reference.log_probs(model, inputs)
        chosen, rejected = log_probs[inputs["pairs"]].unbind(1)
        return chosen, rejected

    def get_train_dataloader(self) -> DataLoader:
        """Returns batches of pairs in random order, those of one prompt together."""
        args, data = self.args, self.train_dataset
        if not isinstance(data, Dataset) or args.train_sampling_strategy != "random":
            return super().get_train_dataloader()
        loader: Any = DataLoader(
            data,
            batch_size=args.train_batch_size,
            sampler=pair_sampler(data, args),
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
        self.margins = {}
        self.evaluate()
        margins = torch.tensor([self.margins[index] for index in range(len(self.margins))])
        return margins, [str(prompt) for prompt in self.eval_dataset["prompt"]]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last call to the trainer's own metrics, and logs both."""
        logs.update(self.means.pop(self.mode))
        super().log(logs, start_time)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Writes TRL's model card with a section on the divergence, its beta and the data."""
        dataset_name = dataset_name or self.dataset_name
        tags = ["f-dpo", *([tags] if isinstance(tags, str) else tags or [])]
        super().create_model_card(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            card = Path(self.args.output_dir) / "README.md"
            more = {"SFT weight": f"{self.args.sft_weight:g}", "data": dataset_name or "not named"}
            section = loss_section(self.args, self.divergence, self.preference, more)
            card.write_text(card.read_text() + section)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """Tokenises a dataset as TRL does, and puts the tokens that were sampled in place."""
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        check_left_out(dataset, prepared, f"{dataset_name} dataset", args.max_length)
        return with_sampled_tokens(prepared, processing_class)

    def _pack_rows(self) -> None:
        """Makes the collator pack rows where that is cheaper, if the model can run them."""
        if self.args.shared_prompts is False or not isinstance(self.data_collator, PairCollator):
            return
        sharded = has_sharded_weights(self.accelerator)
        reason = "its weights are sharded" if sharded else packing_obstacle(self.model)
        if not reason:
            width = self.model.config.get_text_config().hidden_size
            self.data_collator = replace(self.data_collator, packing="cheaper", hidden_size=width)
        elif self.args.shared_prompts:
            raise ValueError(f"--shared_prompts: this model cannot share prompts: {reason}")

    def _reference_log_probs(self, inputs: PairBatch) -> tuple[Tensor, Tensor]:
        if self.precompute_ref_logps:
            return inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        return self.compute_ref_log_probs(self.ref_model or self.model, inputs)

    def _record_pairs(self, indices: Tensor | None, columns: dict[str, Tensor]) -> None:
        metrics = PairMetrics.gather(self.accelerator, indices, columns)
        if nonfinite := metrics.first_nonfinite():
            index, values = nonfinite
            dataset = self.train_dataset if self.mode == "train" else self.eval_dataset
            ratios = [values[f"log_ratios/{side}"] for side in SIDES]
            raise FloatingPointError(
                f"step {self.state.global_step + 1}: the loss of {pair_name(dataset, index)} is "
                f"{values['loss']:g} (log-ratios {ratios[0]:g} and {ratios[1]:g})"
            )
        self.means.add(self.mode, metrics.means())
        if self.mode == "eval":
            margins = metrics["rewards/margins"].tolist()
            self.margins.update(zip(metrics.indices, margins, strict=True))
        elif self.args.log_pairs and self.is_world_process_zero():
            path = Path(self.args.output_dir) / "pairs.jsonl"
            append_pairs(path, metrics, step=self.state.global_step, beta=self.args.beta)

    def _record_tokens(self, inputs: PairBatch, outputs: Any) -> None:
        metrics, num_tokens = token_metrics(self.accelerator, inputs, outputs)
        if self.aux_loss_enabled:
            aux_loss = self.accelerator.gather_for_metrics(outputs.aux_loss.detach())
            metrics["aux_loss"] = aux_loss.mean().item()
        self.means.add(self.mode, metrics)
        if self.mode == "train":
            self.tokens_seen += num_tokens
        self.means.set(self.mode, "num_tokens", self.tokens_seen)


def make_collator(tokenizer: PreTrainedTokenizerBase, args: FDPOConfig) -> PairCollator:
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


def pair_sampler(data: Dataset, args: FDPOConfig) -> PairSampler:
    """Makes the sampler of a dataset that TRL tokenised."""
    update_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    seed = args.seed if args.data_seed is None else args.data_seed
    prompts = [tuple(ids) for ids in data["prompt_ids"]]
    sides = zip(*(map(len, data[f"{side}_ids"]) for side in SIDES), strict=True)
    lengths = [len(prompt) + max(both) for prompt, both in zip(prompts, sides, strict=True)]
    return PairSampler(prompts, lengths, update_size, seed)
