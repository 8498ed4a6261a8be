"""Tables of results.ipynb, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.comparison import markdown_table
from fdpo.plotting import method_label, parse_method

Row = Mapping[str, Any]

METRIC_LABELS = {
    "gain": "reward", "entropy": "entropy", "distinct_2": "distinct-2", "nll": "held-out loss",
    "calibration_error": "calibration error", "overconfidence": "overconfidence",
}  # fmt: skip
LEVEL_LABELS = {
    "kl": "{} nats of reverse KL", "js": "{} nats of JS", "gain": "a reward of {}",
    "beta": "β = {}", "its": "its {}",
}  # fmt: skip
"""The path of a question -> its level in words; a reward is in standard deviations."""
SLOPE = "slope over α of "
NUMBERS = ("value", "baseline_value", "difference", "low", "high", "p_holm")


def method_title(method: str) -> str:
    """Returns the label of a method, such as ``alpha 0.3``."""
    return method_label(*parse_method(method))


def question_label(question: str) -> str:
    """Returns a question of ``experiments.text`` in words.

    Example:
        >>> question_label("gain at kl 5")
        'reward at 5 nats of reverse KL'
    """
    slope = SLOPE if question.startswith(SLOPE) else ""
    metric, _, where = question.removeprefix(SLOPE).partition(" at ")
    path, _, level = where.partition(" ")
    return f"{slope}{METRIC_LABELS[metric]} at {LEVEL_LABELS[path].format(level)}"


def comparisons(questions: Row) -> list[Row]:
    """Returns the comparisons that belong to no published claim."""
    return [row for row in questions["rows"] if not row["claim"]]


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with fixed digits, or nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def interval(row: Row) -> str:
    """Returns a value with its interval, or nothing if there is none."""
    if row["value"] is None:
        return ""
    return f"{row['value']:.2g} ({row['low']:.2g} to {row['high']:.2g})"


def answers_table(questions: Row) -> str:
    """Returns the answer to each published claim."""
    header = ("published claim", "tested by", "compared with", "answer", "higher", "lower",
              "undecided", "left out")  # fmt: skip
    return markdown_table(header, [answer_line(answer) for answer in questions["answers"]])


def answer_line(answer: Row) -> list[str]:
    """Returns the cells of one answer."""
    baseline = answer["baseline"]
    verdicts = [
        "; ".join(map(method_title, answer[word])) if baseline else ""
        for word in ("higher", "lower", "undecided")
    ]
    left_out = (f"{method_title(m)}: {reason}" for m, reason in answer["left_out"].items())
    return [
        answer["claim"], question_label(answer["question"]),
        method_title(baseline) if baseline else "", f"**{answer['answer']}**", *verdicts,
        "; ".join(left_out),
    ]  # fmt: skip


def claims_table(questions: Row) -> str:
    """Returns all comparisons behind the published claims."""
    header = ("published claim", "tested by", "methods", "value", "of the second", "difference",
              "low", "high", "p (Holm)", "the first is")  # fmt: skip
    lines = [
        (
            row["claim"],
            question_label(row["question"]),
            f"{method_title(row['method'])} against {method_title(row['baseline'])}",
            *(number(row[name]) for name in NUMBERS),
            row["verdict"],
        )
        for row in questions["rows"]
        if row["claim"] and row["baseline"]
    ]
    return markdown_table(header, lines)


def slopes_table(questions: Row) -> str:
    """Returns the slopes over α behind the claim that α lies between, "" without any."""
    header = ("question", "slope", "low", "high", "p (Holm)", "it is", "middle between the ends",
              "share of draws with it there")  # fmt: skip
    lines = [
        (
            question_label(row["question"]),
            *(number(row[name]) for name in NUMBERS[2:]),
            row["verdict"],
            {None: "", True: "yes", False: "no"}[row["between"]],
            number(row["share_of_draws_between"], 2),
        )
        for row in questions["rows"]
        if row["claim"] and not row["baseline"]
    ]
    return markdown_table(header, lines) if lines else ""


def slic_hf_table(slic_hf: Row) -> str:
    """Returns slic-hf's published logits beside the measured rewards."""
    lines = [
        (
            method_title(row["method"]),
            f"{row['beta']:g}",
            number(row["published"]),
            f"{row['gain']:.3f} ± {row['gain_se']:.3f}",
        )
        for row in sorted(slic_hf["rows"], key=lambda row: (row["beta"], -row["gain"]))
    ]
    header = ("loss", "β", "slic-hf: mean logit", "here: reward gained (base sd)")
    return markdown_table(header, lines)


def slic_hf_correlations(slic_hf: Row) -> str:
    """Returns the rank correlations with slic-hf's table, a line for each beta."""
    return "\n".join(
        f"β = {row['beta']:g}: rank correlation {row['value']:.2f} "
        f"({row['low']:.2f} to {row['high']:.2f}), "
        f"as far from 0 by chance in {row['by_chance']:.0%} of orders"
        for row in slic_hf["correlations"]
        if row["value"] is not None
    )


def betas_table(questions: Row) -> str:
    """Returns the beta at which each method reaches a distance, with its interval."""
    levels = list(dict.fromkeys(row["kl"] for row in questions["betas"]))
    methods: dict[str, list[str]] = {}
    for row in questions["betas"]:
        methods.setdefault(row["method"], []).append(interval(row))
    header = ("β at this distance", *(f"{level:g} nats" for level in levels))
    return markdown_table(header, [(method_title(m), *line) for m, line in methods.items()])


def tails_table(curves: Row) -> str:
    """Returns the share of completions in the straight tail by beta, "" if all are 0."""
    betas = sorted({row["beta"] for row in curves["rows"] if row["beta"]})
    tails = {(row["method"], row["beta"]): row.get("tail_fraction") for row in curves["rows"]}
    lines = [
        (method_title(method), *(number(tails.get((method, beta)), 2) for beta in betas))
        for method in dict.fromkeys(row["method"] for row in curves["rows"])
        if any(tails.get((method, beta)) for beta in betas)
    ]
    header = ("share in the straight tail", *(f"β = {beta:g}" for beta in betas))
    return markdown_table(header, lines) if lines else ""


def samples_table(samples: Row) -> str:
    """Returns completions of the same prompts by each method."""
    lines = [("reference", samples["reference"])]
    for method, row in samples["methods"].items():
        lines.append((f"{method_title(method)}, β = {row['beta']:g}", row["completions"]))
    header = ("", *(f"“{one_line(prompt)} …”" for prompt in samples["prompts"]))
    return markdown_table(header, [(name, *quoted(texts)) for name, texts in lines])


def quoted(texts: Sequence[str]) -> list[str]:
    """Returns texts fit for the cells of a table."""
    return [one_line(text).replace("|", "/") for text in texts]


def one_line(text: str) -> str:
    """Returns a text with single spaces for all white space."""
    return " ".join(text.split())
