"""Margins of held-out pairs under a trained policy, computed as in its training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback

from fdpo.llm.config import FDPOConfig
from fdpo.llm.generation.tokens import fitting_length
from fdpo.llm.pair_datasets import pairs_dataset
from fdpo.llm.trainer import FDPOTrainer
from fdpo.losses.config import LossConfig
from fdpo.preferences.pairs import Pair
from fdpo.runs.cache import OFF


@contextmanager
def margin_trainer(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    loss: LossConfig | None,
    options: Mapping[str, Any],
    *,
    batch_size: int = 16,
) -> Iterator[FDPOTrainer]:
    r"""Yields a trainer whose :meth:`~FDPOTrainer.held_out_margins` are those of pairs.

    The trainer itself prepares the pairs, so that chat templates, end tokens and the longest length
    are those of the training. It prepares the models only when it measures.

    Arguments:
        policy: The trained model.
        reference: The model it started from.
        tokenizer: The tokenizer of both.
        pairs: The pairs.
        loss: The divergence and beta of the run.
        options: The options of the run, as its record has them.
        batch_size: Pairs in a batch.

    Raises:
        ValueError: If there is no loss, or the prompts of all pairs are too long.
    """
    if loss is None:
        raise ValueError("margins need the divergence and beta of the run, which name no loss")
    lengths = {name: options[name] for name in ("max_length", "truncation_mode") if name in options}
    with tempfile.TemporaryDirectory() as folder:
        config = FDPOConfig(
            **vars(loss),
            **lengths,
            output_dir=folder,
            per_device_eval_batch_size=batch_size,
            use_cpu=policy.device.type == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            reference_cache=OFF,
            report_to="none",
            disable_tqdm=True,
        )
        config.max_length = fitting_length(policy.config, config.max_length)
        trainer = FDPOTrainer(
            policy,
            config,
            ref_model=reference,
            train_dataset=pairs_dataset(list(pairs)),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.eval_dataset = trainer.train_dataset
        yield trainer
