"""A setting of an engine: what it changes of a generator's own flags, and the requests in flight."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finephrase_dagster.artifacts.engine_flags import flag_name

Value = str | int | float | bool
Flags = Mapping[str, str | int | float | bool]

SPECULATION, NONE = "speculation", "none"
SPECULATIONS = re.compile(r"none|(ngram|suffix)_([1-9]\d?)")
"""Names of speculations: the method and the most tokens that it proposes at once."""
_CONFIG = "speculative_config"
_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2  # tokens that an n-gram speculation looks for in the prompt


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an engine runs with.

    Attributes:
        changes: axes whose values differ from the generator's own, sorted by name; empty for the generator as it is.
        concurrency: requests in flight.
    """

    changes: tuple[tuple[str, Value], ...] = ()
    concurrency: int

    @property
    def name(self) -> str:
        """The setting in words, such as `max_num_seqs 64, concurrency 32`; it names a measurement."""
        changes = [f"{axis} {value}" for axis, value in self.changes] or ["default"]
        return ", ".join([*changes, f"concurrency {self.concurrency}"])

    def with_values(self, values: Mapping[str, Value], own: Flags, concurrency: int) -> Setting:
        """Return this setting with other values of some axes; values that `own` has anyway are left out."""
        changes = {**dict(self.changes), **values}
        known = {**own, SPECULATION: speculation_name(own)}
        differing = {axis: value for axis, value in changes.items() if known.get(axis) != value}
        return Setting(changes=tuple(sorted(differing.items())), concurrency=concurrency)

    def flags(self, own: Flags) -> dict[str, str | int | float | bool]:
        """Return the engine's flags, given the generator's own."""
        flags = {flag_name(name): value for name, value in own.items()}
        for axis, value in self.changes:
            if axis != SPECULATION:
                flags[axis] = value
                continue
            flags.pop(_CONFIG, None)
            if value != NONE:
                flags[_CONFIG] = json.dumps(speculative_config(str(value)))
        return flags


def speculative_config(name: str) -> dict[str, Any]:
    """Return vLLM's configuration of a speculation, such as `ngram_6`.

    The model verifies what is proposed by rejection sampling, vLLM's default, so completions keep their distribution.
    """
    method, _, tokens = name.partition("_")
    config: dict[str, Any] = {"method": method, "num_speculative_tokens": int(tokens)}
    if method == "ngram":
        config |= {"prompt_lookup_max": _LONGEST_MATCH, "prompt_lookup_min": _SHORTEST_MATCH}
    return config


def speculation_name(flags: Flags) -> str:
    """Return the name of the speculation that flags set; `own` if it has no name here."""
    if not (text := flags.get(_CONFIG)):
        return NONE
    try:
        config = dict(json.loads(str(text)))
    except (ValueError, TypeError):  # vLLM will refuse it
        return "own"
    name = f"{config.get('method')}_{config.get('num_speculative_tokens')}"
    return name if SPECULATIONS.fullmatch(name) and speculative_config(name).items() >= config.items() else "own"
