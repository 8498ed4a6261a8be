"""Models and tokenizers by hub id or folder: safetensors only, mistakes in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file

from fdpo import runs


@dataclass(frozen=True)
class ModelSource:
    """A causal language model as the user asked for it, from which everything of it is loaded.

    Arguments:
        name: A hub id or a folder, of a whole model or of an adapter.
        revision: The branch, tag or commit of a hub id; by default its main branch.
        trust_remote_code: True to run code of its repository.

    Example:
        .. code-block:: python

            source = ModelSource("Qwen/Qwen2.5-0.5B-Instruct", revision="main")
            model, tokenizer = source.model("cuda"), source.tokenizer()
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def from_run(cls, folder: str, *, trust_remote_code: bool = False) -> Self:
        """Returns the model that the run in a folder started from, by its record.

        Arguments:
            folder: The folder.
            trust_remote_code: True to run code of its repository, whatever the record says, which
                may be a stranger's.

        Raises:
            ValueError: If the folder has no record of a run.
        """
        options = runs.run_options(folder)
        name, revision = options.get("model_name_or_path"), options.get("model_revision")
        if not isinstance(name, str) or not isinstance(revision, str | None):
            raise ValueError(f"model {folder}: no {runs.RECORD} in it; name its --reference")
        return cls(name, revision, trust_remote_code)

    @property
    def options(self) -> dict[str, Any]:
        """The options of transformers' ``from_pretrained`` that belong to the name."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    @cached_property
    def base(self) -> ModelSource | None:
        """The model that an adapter belongs to, ``None`` for a whole model.

        Raises:
            ValueError: If the name is a path that is not there, or a folder without a model.
        """
        require_weights(self.name)
        file = find_adapter_config_file(self.name, revision=self.revision)
        if file is None or (Path(self.name) / "config.json").is_file():
            return None
        if "model_name_or_path" in runs.run_options(self.name):
            return ModelSource.from_run(self.name, trust_remote_code=self.trust_remote_code)
        config = runs.read_json(file)
        name, revision = config.get("base_model_name_or_path"), config.get("revision")
        if not isinstance(name, str):
            raise ValueError(f"model {self.name}: its adapter_config.json names no base model")
        return ModelSource(name, revision, self.trust_remote_code)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer, with the end token for padding where it has no padding token."""
        require_weights(self.name)
        tokenizer = AutoTokenizer.from_pretrained(self.name, **self.options)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def processing_class(self) -> Any:
        """Loads the processor, or the tokenizer where the model is one of text alone."""
        loader = AutoTokenizer if self.base else AutoProcessor
        return loader.from_pretrained(self.name, **self.options)

    def config(self) -> PretrainedConfig:
        """Loads the configuration, an adapter's from its base."""
        if self.base:
            return self.base.config()
        return AutoConfig.from_pretrained(self.name, **self.options)

    def model(self, device: torch.device | str = "cpu", dtype: str = "float32") -> PreTrainedModel:
        """Loads the model, or the adapter on its base, for sampling and scoring."""
        base = self.base or self
        load = AutoModelForCausalLM.from_pretrained
        model = base.whole_model(load, dtype=dtype, use_safetensors=True)
        if base is not self:
            model.load_adapter(self.name, adapter_kwargs={"revision": self.revision})
        return model.to(device).eval()

    def whole_model(self, load: Callable[..., Any], **options: Any) -> PreTrainedModel:
        """Loads the model, or the adapter merged into its base.

        Arguments:
            load: The function that loads a model by name.
            **options: Options of ``load``.
        """
        if self.base is None:
            return load(self.name, **{**options, **self.options})
        from peft import PeftModel  # only here: most models are no adapters

        model = self.base.whole_model(load, **options)
        adapted = PeftModel.from_pretrained(model, self.name, revision=self.revision)
        merged = adapted.merge_and_unload().requires_grad_(True)
        merged.name_or_path = merged.config._name_or_path = self.name
        return merged


def require_weights(name: str) -> None:
    """Raises ``ValueError`` if a name is a path that is not there, or a folder without a model."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
            raise ValueError(f"model {name}: no such folder")
        return  # a hub id
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"model {name}: a folder without config.json is no model")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"model {name}: no weights in this folder (*.safetensors)")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a hub id or folder (:meth:`ModelSource.tokenizer`)."""
    return ModelSource(name).tokenizer()


def load_model(
    name: str, device: torch.device | str = "cpu", dtype: str = "float32"
) -> PreTrainedModel:
    """Loads the model of a hub id or folder (:meth:`ModelSource.model`)."""
    return ModelSource(name).model(device, dtype)
