"""The configuration of a published model: from its checkpoint, from JSON, or from the sizes that a user gives.

The names of the fields are those of the model's own config.json. A run records the fields that were read, so it can be
loaded without the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from tstk.errors import OptionError
from tstk.nn.pretrained import read_checkpoint_config

MAX_INTEGER = 2**24


class ModelConfig:
    """Fields of a config.json, checked when they are read.

    Args:
        fields: the content of the file
        source: what the fields come from, for messages
        size_options: options of the component that the fields replace
    """

    def __init__(self, fields: Mapping[str, Any], source: str, size_options: Iterable[str] = ()) -> None:
        self._fields, self.source, self.size_options = fields, source, tuple(size_options)
        self._seen: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        """Return whether there is a field of this name that is not null."""
        return self._fields.get(name) is not None

    def integer(self, name: str, default: int) -> int:
        """Return a positive integer; `default` if the field is missing or null."""
        return self._read(name, default, "a positive integer", lambda v: type(v) is int and 0 < v <= MAX_INTEGER)

    def number(self, name: str, default: float, below: float = math.inf) -> float:
        """Return a number of at least 0, less than `below`; `default` if the field is missing or null."""
        expected = "a number of at least 0" + ("" if below == math.inf else f" and less than {below:g}")
        return float(
            self._read(
                name, default, expected, lambda v: type(v) in (int, float) and 0 <= v < below and math.isfinite(v)
            )
        )

    def numbers(self, name: str, default: Collection[float]) -> list[float]:
        """Return a list of positive numbers; `default` if the field is missing or null."""

        def is_valid(values: Any) -> bool:
            return (
                isinstance(values, list | tuple)
                and 0 < len(values) <= 100
                and all(type(v) in (int, float) and 0 < v < math.inf for v in values)
            )

        return list(self._read(name, list(default), "a list of positive numbers", is_valid))

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false; `default` if the field is missing or null."""
        return bool(self._read(name, default, "true or false", lambda v: type(v) is bool))

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        """Return one of some strings; `default` if the field is missing or null."""
        return str(
            self._read(name, default, " or ".join(map(repr, choices)), lambda v: type(v) is str and v in choices)
        )

    def section(self, name: str) -> ModelConfig:
        """Return the fields of an object in the file.

        Raises:
            OptionError: there is none
        """
        fields = self._fields.get(name)
        if not isinstance(fields, Mapping):
            raise OptionError(f"{self.source} has no object {name!r}")
        section = ModelConfig(fields, f"{self.source}: {name}")
        self._seen[name] = section
        return section

    def refuse(self, name: str, allowed: Any, reason: str) -> None:
        """Raise OptionError if a field is set to something else than `allowed`."""
        if name in self and self._fields[name] != allowed:
            raise OptionError(f"{self.source} has {name} {self._fields[name]!r}, which is not supported: {reason}")

    def get_overrides(self) -> dict[str, Any]:
        """Return the options that rebuild the component without its checkpoint: the fields that were read, as JSON."""
        return {**dict.fromkeys(self.size_options), "pretrained": None, "config": json.dumps(self._to_dict())}

    def _to_dict(self) -> dict[str, Any]:
        return {k: v._to_dict() if isinstance(v, ModelConfig) else v for k, v in self._seen.items()}

    def _read(self, name: str, default: Any, expected: str, is_valid: Callable[[Any], bool]) -> Any:
        value = self._fields.get(name)
        value = default if value is None else value
        if not is_valid(value):
            raise OptionError(f"{self.source} has {name} {value!r}; expected {expected}")
        self._seen[name] = value
        return value


def resolve_config(
    model: str,
    marks: Collection[str],
    *,
    pretrained: str | None,
    config: str | None,
    sizes: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> ModelConfig:
    """Return the configuration of a model.

    Args:
        model: name of the model, for messages
        marks: a field of each of which one says that a config.json is that of the model: `name` or `name=value`
        pretrained: folder or hub name of a checkpoint to take it from
        config: the content of a config.json to take it from
        sizes: the user's sizes by option, None where not set
        fields: the fields for these sizes, if there is neither checkpoint nor JSON

    Raises:
        OptionError: two of them are given, the checkpoint or the JSON cannot be read, or is of another model
    """
    given = [k for k, v in {"config": config, "pretrained": pretrained, **sizes}.items() if v is not None]
    if len(given) > 1 and given[0] in ("config", "pretrained"):
        raise OptionError(f"{given[0]} sets the architecture of {model}; leave out {', '.join(given[1:])}")
    if pretrained is not None:
        content, source = read_checkpoint_config(pretrained), f"pretrained={pretrained!r}: config.json"
    elif config is not None:
        content, source = _parse_json(config), "config"
    else:
        return ModelConfig(fields, f"{model} of these sizes", sizes)
    mark = next((mark for mark in marks if _has_mark(content, mark)), None)
    if mark is None:
        kind = f"a {content['model_type']!r}" if isinstance(content.get("model_type"), str) else "another model"
        raise OptionError(
            f"{source} is of {kind}, not of {model}, which is known by {' or '.join(marks)}; name the tokenizer and "
            "the encoder of that model, or another checkpoint"
        )
    resolved = ModelConfig(content, source, sizes)
    name, has_value, value = mark.partition("=")
    if has_value:
        resolved.choice(name, value, (value,))  # kept in the JSON, by which it is recognised again
    return resolved


def _has_mark(fields: Mapping[str, Any], mark: str) -> bool:
    name, _, value = mark.partition("=")
    return name in fields if not value else fields.get(name) == value


def _parse_json(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"config is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise OptionError("config is not a JSON object; expected the content of a config.json")
    return fields
