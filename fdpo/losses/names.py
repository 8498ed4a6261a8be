"""Loss names: the divergence and the preference loss that a ``--loss`` text stands for.

:func:`resolve_loss` takes

- a name of :data:`LOSSES`: ``jsd``, ``alpha``, ``hinge``;
- a mixture: ``0.7*js + 0.3*alpha(0.5)``;
- a plug-in: ``package.module:attribute``, a divergence or a generator :math:`f`.
"""

from __future__ import annotations

import ast
from typing import Any

from fdpo.divergences.base import Divergence, parameters
from fdpo.divergences.from_generator import divergence_from_generator
from fdpo.divergences.members import ALIASES, DIVERGENCES, NO_LINK, OTHER_NAMES, get_divergence
from fdpo.plugins import load_plugin
from fdpo.spelling import did_you_mean

#: Name -> (divergence, preference loss): five names of TRL's and all divergences.
LOSSES: dict[str, tuple[str, str]] = {
    **{name: (divergence, "logistic") for name, divergence in ALIASES.items()},
    "hinge": ("reverse_kl", "hinge"),
    "ipo": ("reverse_kl", "squared"),
    **{name: (name, "logistic") for name in DIVERGENCES},
}

_FORMS = "a mixture ('0.7*js + 0.3*alpha(0.5)') or a plug-in ('package.module:attribute')"


def resolve_loss(name: str, alpha: float | None = None, **values: Any) -> tuple[Divergence, str]:
    """Returns the divergence and the name of the preference loss that a ``--loss`` text stands for.

    Arguments:
        name: A name of :data:`LOSSES`; a mixture such as ``'0.7*js + 0.3*reverse_kl'``, with
            parameters as in ``alpha(0.3)`` or ``skew_js(t=0.2)``; or a plug-in.
        alpha: The parameter of ``alpha``; ``None`` if it is not given.
        **values: Other parameters of the divergence, such as ``t`` of ``skew_js``.

    Raises:
        ValueError: If there is no such loss or parameter, or a value is not allowed.

    Example:
        >>> resolve_loss("hinge")
        (ReverseKL(), 'hinge')
        >>> resolve_loss("alpha", alpha=0.3)
        (Alpha(alpha=0.3), 'logistic')
        >>> divergence, _ = resolve_loss("0.7*jsd + 0.3*skew_js(t=0.2)")
        >>> print(divergence)
        0.7*js + 0.3*skew_js(0.2)
    """
    if alpha is not None:
        values["alpha"] = alpha
    if name in LOSSES or name.isidentifier():
        divergence, preference = _registered(name)
        return get_divergence(divergence, **values), preference
    if values:
        raise ValueError(f"loss {name!r} takes no parameters beside it, got {', '.join(values)}")
    return (_plugin(name) if is_plugin(name) else _mixture(name)), "logistic"


def is_plugin(name: str) -> bool:
    """Returns whether a ``--loss`` text names an object to import.

    Example:
        >>> is_plugin("my.losses:f"), is_plugin("0.7*js + 0.3*alpha(0.5)")
        (True, False)
    """
    return ":" in name


def as_divergence(value: Divergence | str) -> Divergence:
    """Returns a divergence, or the one of a name, a mixture or a plug-in as ``--loss`` takes them.

    Raises:
        ValueError: If the text names a preference loss, such as ``hinge``, or nothing known.
        TypeError: If the value is neither a divergence nor a text.
    """
    if isinstance(value, Divergence):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a divergence or its name is expected, got {type(value).__name__}")
    divergence, preference = resolve_loss(value)
    if preference != "logistic":
        raise ValueError(f"{value} is a preference loss: preference={preference!r} selects it")
    return divergence


def loss_parameters(name: str) -> tuple[str, ...]:
    """Returns the names of the parameters that :func:`resolve_loss` takes with a loss.

    Example:
        >>> loss_parameters("skew_js"), loss_parameters("jsd")
        (('t',), ())
    """
    divergence = DIVERGENCES.get(LOSSES.get(name, (name,))[0])
    return tuple(parameters(divergence)) if divergence else ()


def _registered(name: str) -> tuple[str, str]:
    """Looks up a name: first among the losses, then among divergences registered later."""
    if name in LOSSES:
        return LOSSES[name]
    if name in DIVERGENCES or name in NO_LINK:  # get_divergence says why it refuses the latter
        return name, "logistic"
    if name.endswith("_norm"):
        raise ValueError(
            f"loss {name!r} divides log-ratios by length: no theorem covers that for a divergence "
            "other than the reverse KL, and there is no such loss here; use sigmoid"
        )
    close = did_you_mean(name, LOSSES, OTHER_NAMES)
    raise ValueError(f"unknown loss {name!r}{close}; choose from {', '.join(LOSSES)}, {_FORMS}")


def _mixture(text: str) -> Divergence:
    """Parses a weighted sum of divergences as a Python expression, without evaluating it."""
    try:
        return _sum(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        choices = f"give one of {', '.join(LOSSES)}, {_FORMS}"
        reason = getattr(error, "msg", None) or str(error) or "nested too deeply"
        raise ValueError(f"cannot read loss {text[:80]!r} ({reason}): {choices}") from None


def _sum(node: ast.expr) -> Divergence:
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(left) + _sum(right)
        case ast.BinOp(left=weight, op=ast.Mult(), right=right):
            return _number(weight) * _sum(right)
        case ast.Name(id=name):
            return _term(name, {})
        case ast.Call(func=ast.Name(id=name), args=values, keywords=keywords):
            known = parameters(DIVERGENCES[name]) if name in DIVERGENCES else ()
            if len(values) <= len(known):
                by_name = dict(zip(known, values, strict=False))
                by_name |= {str(keyword.arg): keyword.value for keyword in keywords}
                return _term(name, {key: _number(value) for key, value in by_name.items()})
    raise SyntaxError(f"{ast.unparse(node)} is no divergence")


def _term(name: str, values: dict[str, float]) -> Divergence:
    divergence, preference = resolve_loss(name, **values)
    if preference != "logistic":
        raise SyntaxError(f"{name} is no divergence, but a preference loss")
    return divergence


def _number(node: ast.expr) -> float:
    try:
        return float(ast.literal_eval(node))
    except (ValueError, TypeError):
        raise SyntaxError(f"{ast.unparse(node)} is no number") from None


def _plugin(path: str) -> Divergence:
    value = load_plugin(path, "loss")
    if isinstance(value, Divergence):
        return value
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"loss {path} is neither a Divergence nor a function f, but {value!r}")
    return divergence_from_generator(value, name=path.rpartition(":")[2])
