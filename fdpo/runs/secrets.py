"""Secrets of the user: in the environment, where libraries and child processes find them.

No file holds them: :func:`to_environment` takes them out of options, :func:`without_secrets` out of
what is written, :func:`redacted` out of recorded commands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

VARIABLE = "HF_TOKEN"
"""The environment variable that huggingface_hub and all that builds on it read."""
HUB_TOKENS = ("hub_token", "hf_token", "token", "use_auth_token")
"""Names of a token of the hub, among options and in the options that are mappings."""
_SECRET = re.compile(r"(.*_)?(api_?key|password|secret|access_token|auth_token)", re.IGNORECASE)
_VARIABLES = re.compile(r"(.*_)?(TOKEN|API_?KEY|PASSWORD|SECRET)")
_IN_COMMAND = re.compile(r"(--(?:hub|hf)[_-]token[= ])\S+")


def to_environment(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options without tokens of the hub, which go to the environment.

    Raises:
        ValueError: If there are two different tokens, or a secret of another kind in a mapping.
    """
    tokens = set(_tokens(options))
    if len(tokens) > 1:
        raise ValueError("--hub_token: two different tokens are given, one is needed")
    if other := _other_secret(options):
        raise ValueError(f"{other} is a secret: give it as an environment variable instead")
    if tokens:
        os.environ[VARIABLE] = tokens.pop()
    return without_secrets(options)


def without_secrets(value: Any) -> Any:
    """Returns a value without the secrets in its mappings."""
    if isinstance(value, Mapping):
        return {k: without_secrets(v) for k, v in value.items() if not _is_secret(k, v)}
    return [without_secrets(one) for one in value] if isinstance(value, list) else value


def redacted(command: str) -> str:
    """Returns a command with stars for the secrets of the environment and tokens of the hub."""
    secrets = {value for name, value in os.environ.items() if _VARIABLES.fullmatch(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 8 or secret == os.environ.get(VARIABLE):
            command = command.replace(secret, "***")
    return _IN_COMMAND.sub(r"\1***", command)


def _is_secret(name: Any, value: Any) -> bool:
    """Returns whether a member of a mapping is a secret: ``token=True`` is none."""
    is_name = str(name) in HUB_TOKENS or _SECRET.fullmatch(str(name)) is not None
    return is_name and (isinstance(value, str) or _is_texts(value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _tokens(value: Any) -> list[str]:
    """Returns the tokens of the hub in the mappings of a value."""
    found: list[str] = []
    if isinstance(value, Mapping):
        for name, member in value.items():
            if str(name) in HUB_TOKENS and _is_secret(name, member):
                found += member if isinstance(member, list) else [member]
            else:
                found += _tokens(member)
    elif isinstance(value, list):
        found += (token for one in value for token in _tokens(one))
    return found


def _other_secret(value: Any) -> str:
    """Returns the name of a secret in a mapping that is no token of the hub, "" without one."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            if str(name) not in HUB_TOKENS and _is_secret(name, member):
                return str(name)
    members = value.values() if isinstance(value, Mapping) else value
    nested = members if isinstance(value, (Mapping, list)) else ()
    return next(filter(None, map(_other_secret, nested)), "")
