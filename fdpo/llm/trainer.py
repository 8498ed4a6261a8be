r"""f-DPO for language models, on TRL's trainer.

With :math:`\ell(y) = \log \pi_\theta(y \mid x) - \log \pi_\text{ref}(y \mid x)`, summed over the
tokens of a completion in fp32, the trainer produces :math:`\ell_w` and :math:`\ell_l` of each
pair; :mod:`fdpo.llm.loss` computes the loss from them.

The loss enters through the documented extension point of ``trl.DPOTrainer``, its public
``compute_loss``; ``tests/llm/test_contract.py`` lists everything else of TRL that this relies on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput
from trl import DPOTrainer

from fdpo import runs
from fdpo.cards import loss_section
from fdpo.divergences.base import Divergence
from fdpo.llm.callbacks import CountEpochs, CountTokens, FiniteGradients, SaveReferenceCache
from fdpo.llm.checkpoints import ResumableTrainer
from fdpo.llm.collator import PairBatch, PairCollator, make_collator
from fdpo.llm.config import FDPOConfig
from fdpo.llm.data import check_left_out, pair_name, with_sampled_tokens
from fdpo.llm.defaults import (
    keep_batches_whole,
    load_processing_class,
    named_arguments,
    policy_and_reference,
    requested_source,
)
from fdpo.llm.forward import model_inputs, packing_obstacle, sum_by_completion, token_log_probs
from fdpo.llm.loss import pair_losses
from fdpo.llm.metrics import (
    CountedPairs,
    Means,
    Mode,
    PairMetrics,
    append_pairs,
    batch_tokens,
    token_columns,
)
from fdpo.llm.pair_datasets import as_pairs
from fdpo.llm.preparation import (
    require_chat_template,
    with_pair_index,
    with_template_kwargs,
    without_added_ends,
)
from fdpo.llm.reference import Reference, has_sharded_weights
from fdpo.llm.sampler import pair_sampler
from fdpo.llm.stacked import IndexedCollator, as_pair_batch, naming_max_length, require_unmarked
from fdpo.preferences.pairs import SIDES, PairingConfig
from fdpo.runs.cache import OFF
from fdpo.runs.notes import note


class FDPOTrainer(ResumableTrainer, DPOTrainer):
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

    Rows of images, and processors of vision-language models, come in TRL's own batches: there a
    prompt is run for each completion, and the reference is not cached.

    Arguments:
        model: As for ``DPOTrainer``: an id, a folder, a model, or a PEFT model.
        *arguments: The configuration alone, or the arguments of ``DPOTrainer`` in its order. The
            configuration is an :class:`FDPOConfig`, or a ``DPOConfig`` as TRL resolved it.
        divergence: A divergence object, in place of the one that ``args.loss`` names.
        pairing: The rule that makes pairs of scored groups.
        dataset_name: The name of the data in the model card.
        **kwargs: The arguments of ``DPOTrainer`` by name: ``args``, ``ref_model``,
            ``train_dataset``, ``eval_dataset``, ``processing_class``, ``peft_config`` …

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
        *arguments: Any,
        divergence: Divergence | None = None,
        pairing: PairingConfig | None = None,
        dataset_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = named_arguments(arguments, kwargs)
        args = FDPOConfig.from_trl(kwargs.pop("args", None) or FDPOConfig())
        named, self.preference = args.resolve()
        self.divergence = named if divergence is None else divergence
        self.pairing, self.dataset_name = pairing, dataset_name
        self.means = Means()
        self.recent_pairs: list[Tensor] = []  # indices of the pairs since the last update
        self.margins: dict[int, float] = {}  # by index, of the last evaluation
        self.source = requested_source(model, args)
        if kwargs.get("processing_class") is None:
            kwargs["processing_class"] = load_processing_class(model, self.source)
        tokenizer = kwargs["processing_class"]
        if kwargs.get("data_collator") is None and isinstance(tokenizer, PreTrainedTokenizerBase):
            kwargs["data_collator"] = make_collator(tokenizer, args)
        model, kwargs["ref_model"] = policy_and_reference(
            self.source, model, kwargs.get("ref_model"), kwargs.get("peft_config"), args
        )
        super().__init__(model, args=args, **kwargs)
        self.counted = CountedPairs(self.accelerator)
        if self._is_vision_dataset:  # which TRL does not prepare
            require_unmarked(self.train_dataset)
            self.train_dataset = with_pair_index(self.train_dataset, args)
            self.eval_dataset = with_pair_index(self.eval_dataset, args)
        if not isinstance(self.data_collator, PairCollator):
            self.data_collator = IndexedCollator(self.data_collator)
        self._share_prompts()
        self.add_callback(FiniteGradients(self))
        self.add_callback(CountEpochs(self))
        self.add_callback(CountTokens())
        self.add_callback(SaveReferenceCache(self.reference))

    def create_accelerator_and_postprocess(self) -> None:
        """Creates the accelerator, by which no process cuts batches for the others."""
        super().create_accelerator_and_postprocess()
        keep_batches_whole(self.accelerator)

    @cached_property
    def reference(self) -> Reference:
        """The frozen reference, with the cache of its log-probabilities."""
        has_keys = isinstance(self.data_collator, PairCollator)
        return Reference(
            self.accelerator,
            self.model if self.ref_model is None else self.ref_model,
            shares_policy=self.ref_model is None,
            cache_folder=self.args.reference_cache
            if has_keys and not self.args.sync_ref_model
            else OFF,
        )

    @property
    def mode(self) -> Mode:
        """The mode of the model, and of the metrics it produces."""
        return "train" if self.model.training else "eval"

    @property
    def tokens_seen(self) -> int:
        """The tokens of the batches trained on, padding excluded."""
        return self.get_callback(CountTokens).tokens

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Computes the f-DPO loss of a batch of pairs."""
        inputs = as_pair_batch(inputs)
        if self.model.training and "pair_index" in inputs:
            self.recent_pairs.append(inputs["pair_index"])
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        unwrapped = self.accelerator.unwrap_model(model)
        with naming_max_length(self.args.max_length):
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
            metrics["aux_loss"] = outputs.aux_loss.detach().expand(len(losses))
        with torch.no_grad():
            self._record(inputs, metrics | token_columns(inputs, outputs))
        if return_outputs:
            with torch.no_grad():
                return loss, model(**model_inputs(inputs))
        return loss

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns the reference's log-probabilities of the chosen and rejected sides of a batch.

        Those that are not in the cache are computed.
        """
        batch = as_pair_batch(inputs)
        compute = self.reference.log_probs if "keys" in batch else self.reference.compute
        chosen, rejected = compute(model, batch)[batch["pairs"]].unbind(1)
        return chosen, rejected

    def get_train_dataloader(self) -> DataLoader:
        """Returns batches of pairs in random order, those of one prompt together."""
        args, data = self.args, self.train_dataset
        is_tokenised = isinstance(data, Dataset) and "prompt_ids" in data.column_names
        if not is_tokenised or args.train_sampling_strategy != "random":
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

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluates each pair once; the loss is the mean over pairs."""
        self.means.start("eval")
        self.counted.start("eval")
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if (loss := self._mean_loss("eval")) is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = loss
        return output

    def held_out_margins(self) -> tuple[Tensor, list[str]]:
        r"""Evaluates, and returns the margin and the prompt of each pair of ``eval_dataset``.

        The margins :math:`m = \beta(g(\ell_w) - g(\ell_l))` have shape (N), in float32. Several
        datasets follow one another.
        """
        several = isinstance(self.eval_dataset, dict)
        margins: list[float] = []
        prompts: list[str] = []
        for name in self.eval_dataset if several else (None,):
            self.margins = {}
            self.evaluate(name)
            if -1 in self.margins:
                raise ValueError("eval_dataset: a stream that workers divide has no order of pairs")
            margins += [self.margins[index] for index in sorted(self.margins)]
            data = self.eval_dataset[name] if several else self.eval_dataset
            prompts += map(str, data["prompt"])
        return torch.tensor(margins), prompts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last call to the trainer's own metrics, and logs both."""
        if "loss" in logs and (loss := self._mean_loss("train")) is not None:
            logs["loss"] = loss
        means = self.means.pop(self.mode)
        logs.update(
            (name, mean) for name, mean in means.items() if name not in ("loss", "eval_loss")
        )
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
            runs.write_text(card, card.read_text(encoding="utf-8") + section)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """Tokenises a dataset of pairs, or of scored groups, as TRL does, and completes it."""
        known = dataset_name in ("train", "eval")
        source = f"{dataset_name}_dataset" if known else f"eval_dataset {dataset_name}"
        dataset = with_template_kwargs(as_pairs(dataset, source, self.pairing))
        require_chat_template(dataset, self._tokenizer, source)
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        check_left_out(dataset, prepared, source, args.max_length)
        prepared = with_sampled_tokens(prepared, self._tokenizer)
        return with_pair_index(without_added_ends(prepared, processing_class), args)

    def _share_prompts(self) -> None:
        """Makes the collator pack rows where that is cheaper, if the model can run them."""
        if self.args.shared_prompts is False:
            return
        if reason := self._sharing_obstacle():
            if self.args.shared_prompts:
                raise ValueError(f"--shared_prompts: this model cannot share prompts: {reason}")
            return note(f"prompts are not shared: {reason}")
        width = self.model.config.get_text_config().hidden_size
        self.data_collator = replace(self.data_collator, packing="cheaper", hidden_size=width)

    def _sharing_obstacle(self) -> str:
        """Returns why completions cannot share rows with their prompts, "" if they can."""
        if not isinstance(self.data_collator, PairCollator):
            source = "a processor" if self._is_vlm else "another collator"
            return f"batches come from {source} (so the reference is not cached either)"
        if has_sharded_weights(self.accelerator):
            return "its weights are sharded"
        return packing_obstacle(self.model)

    def _reference_log_probs(self, inputs: PairBatch) -> tuple[Tensor, Tensor]:
        if self.precompute_ref_logps:
            return inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        return self.compute_ref_log_probs(self.ref_model or self.model, inputs)

    def _mean_loss(self, mode: Mode) -> float | None:
        """Returns the mean loss over pairs since the last log, None without pairs."""
        loss = self.means.mean(mode, "loss")
        if loss is None or not self.aux_loss_enabled:
            return loss
        return loss + self.router_aux_loss_coef * (self.means.mean(mode, "aux_loss") or 0.0)

    def _record(self, batch: PairBatch, columns: dict[str, Tensor]) -> None:
        """Adds a batch to the metrics, and checks its losses."""
        metrics = PairMetrics.gather(self.counted, self.mode, batch.get("pair_index"), columns)
        if nonfinite := metrics.first_nonfinite():
            index, values = nonfinite
            dataset = self.train_dataset if self.mode == "train" else self.eval_dataset
            ratios = [values[f"log_ratios/{side}"] for side in SIDES]
            raise FloatingPointError(
                f"step {self.state.global_step + 1}: the loss of {pair_name(dataset, index)} is "
                f"{values['loss']:g} (log-ratios {ratios[0]:g} and {ratios[1]:g})"
            )
        self.means.add(self.mode, metrics.sums())
        num_tokens, num_places = batch_tokens(self.accelerator, batch)
        self.means.add(self.mode, {"padded_fraction": (num_places - num_tokens, num_places)})
        if self.mode == "train":
            self.get_callback(CountTokens).tokens += num_tokens
        self.means.set(self.mode, "num_tokens", self.tokens_seen)
        if self.mode == "eval":
            margins = metrics["rewards/margins"].tolist()
            self.margins.update(zip(metrics.indices, margins, strict=True))
        elif self.args.log_pairs and self.is_world_process_zero():
            path = Path(self.args.output_dir) / "pairs.jsonl"
            append_pairs(path, metrics, step=self.state.global_step, beta=self.args.beta)
