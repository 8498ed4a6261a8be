"""The result of comparing a policy with its reference: metrics, samples, a table of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fdpo.cards import code_span
from fdpo.estimators.estimate import Estimate, flat


@dataclass(frozen=True)
class Comparison:
    r"""Metrics and samples of a policy and its reference (:func:`fdpo.llm.evaluate.compare`).

    Arguments:
        before: The reference's metrics by name, each with its standard error over prompts.
        after: The policy's, and its divergences from the reference in nats.
        deviations: The standard deviation of each of the reference's rewards over all samples.
        rows: Every sample of both models: ``model`` (``reference`` or ``policy``), the numbers of
            the prompt (``opening``) and of the ``sample``, ``prompt`` and ``completion``,
            ``log_ratio`` (:math:`\log \pi/\pi_\text{ref}`) and ``kl`` (from the other model, over
            the whole vocabulary) in nats, ``entropy`` in nats per token, and ``reward/NAME``.
    """

    before: dict[str, Estimate]
    after: dict[str, Estimate]
    deviations: dict[str, float]
    rows: list[dict[str, Any]]

    def metrics(self) -> dict[str, float]:
        """Returns everything but the samples under flat keys, standard errors as ``*_se``."""
        deviations = {f"base_{name}_sd": value for name, value in self.deviations.items()}
        return flat(self.before, "base_") | flat(self.after) | deviations

    def warnings(self) -> dict[str, str]:
        """Returns warnings of the policy's metrics that cannot be trusted, by metric."""
        return {name: estimate.warning for name, estimate in self.after.items() if estimate.warning}

    def table(self) -> str:
        """Returns the metrics before and after as an aligned text table, and the warnings."""
        rows = [("", "before", "after")]
        for name, after in self.after.items():
            before = self.before.get(name)
            rows.append((name, "" if before is None else _text(before), _text(after)))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{name:<{widths[0]}}   {before:>{widths[1]}}   {after:>{widths[2]}}".rstrip()
            for name, before, after in rows
        ]
        warnings = (f"! {name}: {warning}" for name, warning in self.warnings().items())
        return "\n".join([*lines, *warnings])

    def samples(self, count: int = 8) -> str:
        """Returns the first prompts with both completions, as Markdown that renders no text."""
        first = [row for row in self.rows if row["sample"] == 0 and row["opening"] < count]
        both = (
            [row for row in first if row["model"] == model] for model in ("reference", "policy")
        )
        return "\n".join(
            f"{code_span(before['prompt'])} …\n\n- before: {code_span(before['completion'])}\n"
            f"- after: {code_span(after['completion'])}\n"
            for before, after in zip(*both, strict=True)
        )


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {estimate.error:.3f}"
