"""Language models: the trainer on TRL, generation and evaluation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdpo.llm.config import FDPOConfig
    from fdpo.llm.trainer import FDPOTrainer

__all__ = ["FDPOConfig", "FDPOTrainer"]


def __getattr__(name: str) -> Any:
    # Importing TRL takes seconds, which sampling and scoring need not wait for.
    if name == "FDPOConfig":
        from fdpo.llm.config import FDPOConfig

        return FDPOConfig
    if name == "FDPOTrainer":
        from fdpo.llm.trainer import FDPOTrainer

        return FDPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
