"""Names of losses: the divergence and the preference loss that a ``--loss`` text means."""

from __future__ import annotations

import ast
from typing import Any

from fdpo.divergences.base import Divergence, parameters
from fdpo.divergences.from_generator import divergence_from_generator
from fdpo.divergences.members import DIVERGENCES, NO_LINK, get_divergence
from fdpo.plugins import imported

#: The names that ``--loss`` takes, besides mixtures and your own: name -> (divergence, preference).
LOSSES: dict[str, tuple[str, str]] = {
    "sigmoid": ("reverse_kl", "logistic"),
    "hinge": ("reverse_kl", "hinge"),
    "ipo": ("reverse_kl", "squared"),
    "jsd": ("js", "logistic"),
    "fkl": ("forward_kl", "logistic"),
    **{name: (name, "logistic") for name in DIVERGENCES},
}

_FORMS = "a mixture ('0.7*js + 0.3*alpha(0.5)') or your own ('package.module:attribute')"


def resolve_loss(name: str, alpha: float | None = None, **values: Any) -> tuple[Divergence, str]:
    """Returns the divergence and the name of the preference loss that a ``--loss`` name means.

    Arguments:
        name: One of :data:`LOSSES`; a mixture such as ``'0.7*js + 0.3*reverse_kl'``, where
            parameters are written as ``alpha(0.3)`` or ``skew_js(t=0.2)``; or
            ``'package.module:attribute'``, which names a divergence or a generator :math:`f`.
        alpha: The parameter of the loss ``alpha``; ``None`` where it is not given.
        **values: Other parameters of the divergence, such as ``t`` of ``skew_js``.

    Raises:
        ValueError: If there is no such loss or parameter, or a value is not allowed.
    """
    if alpha is not None:
        values["alpha"] = alpha
    if name in LOSSES:
        divergence, preference = LOSSES[name]
        return get_divergence(divergence, **values), preference
    if name.isidentifier():
        return _named(name, values), "logistic"
    if values:
        raise ValueError(f"loss {name!r} takes no parameters beside it, got {', '.join(values)}")
    return (_own(name) if ":" in name else _mixture(name)), "logistic"


def loss_parameters(name: str) -> tuple[str, ...]:
    """Returns the parameters that :func:`resolve_loss` takes beside a name: none with most."""
    divergence = DIVERGENCES.get(LOSSES.get(name, (name,))[0])
    return tuple(parameters(divergence)) if divergence else ()


def _named(name: str, values: dict[str, Any]) -> Divergence:
    if name.endswith("_norm"):
        raise ValueError(
            f"loss {name!r} divides log-ratios by length: no theorem covers that for a divergence "
            "other than the reverse KL, and there is no such loss here; use sigmoid"
        )
    if name in DIVERGENCES or name in NO_LINK:
        return get_divergence(name, **values)
    raise ValueError(f"no loss {name!r}; there are {', '.join(LOSSES)}, {_FORMS}")


def _mixture(text: str) -> Divergence:
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        choices = f"give one of {', '.join(LOSSES)}, {_FORMS}"
        raise ValueError(f"cannot read loss {text!r} ({error.msg}): {choices}") from None


def _evaluate(node: ast.expr) -> Divergence:
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left) + _evaluate(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _number(left) * _evaluate(right)
        case ast.Name(id=name):
            return _component(name, {})
        case ast.Call(func=ast.Name(id=name), args=values, keywords=named):
            known = parameters(DIVERGENCES[name]) if name in DIVERGENCES else ()
            if len(values) <= len(known):
                pairs = [*zip(known, values, strict=False), *((str(k.arg), k.value) for k in named)]
                return _component(name, {key: _number(value) for key, value in pairs})
    raise SyntaxError(f"{ast.unparse(node)} is no divergence")


def _component(name: str, values: dict[str, Any]) -> Divergence:
    divergence, preference = resolve_loss(name, **values)
    if preference != "logistic":
        raise SyntaxError(f"{name} is no divergence, but a preference loss")
    return divergence


def _number(node: ast.expr) -> float:
    try:
        return float(ast.literal_eval(node))
    except (ValueError, TypeError):
        raise SyntaxError(f"{ast.unparse(node)} is no number") from None


def _own(path: str) -> Divergence:
    value = imported(path, "loss")
    if isinstance(value, Divergence):
        return value
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"loss {path} is neither a Divergence nor a function f, but {value!r}")
    return divergence_from_generator(value, name=path.rpartition(":")[2])
