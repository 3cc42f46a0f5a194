"""Identity: one hash over everything that determines an output.

A fingerprint is the SHA-256 of canonical JSON. A value without exactly one deterministic form (a set, a callable, a
float that is not finite) is refused instead of being hashed by accident. Paths, hosts, concurrency and engine flags
that leave the output alone are execution settings and never part of a recipe.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from finephrase_dagster.errors import FinephraseError

SHORT = 16  # hex digits that name a folder: 64 bits
SHOWN = 80  # characters shown of a value that has changed


class NoDeterministicForm(FinephraseError, TypeError):
    """A recipe holds a value whose hash could differ between two runs."""


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_SCALARS = frozenset((str, int, bool, type(None)))


def _is_plain(value: Any) -> bool:
    """Return whether `plain` would return an equal value; several times faster, for the recipes of a large study."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _SCALARS and not _is_plain(item)):
                return False
        return True
    if kind is list or kind is tuple:
        return all(type(item) in _SCALARS or _is_plain(item) for item in value)
    return kind in _SCALARS or (kind is float and math.isfinite(value))


def plain(value: object, where: str = "recipe") -> Any:
    """Return a value as JSON data: specs and mappings as objects, sequences as arrays.

    Raises:
        NoDeterministicForm: a value has no such form; the message names its field.
    """
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"), where)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NoDeterministicForm(f"{where} is {value}: write a finite number")
        return value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise NoDeterministicForm(f"{where} has the key {wrong[0]!r}: keys are strings")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise NoDeterministicForm(
        f"{where} is a {type(value).__name__}, which has no deterministic form: "
        "put its content, or a hash of it, into the recipe"
    )


def canonical(value: object) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, UTF-8.

    Raises:
        NoDeterministicForm: a value cannot be hashed; the message names its field.
    """
    return _ENCODER.encode(value if _is_plain(value) else plain(value))


def fingerprint(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON as 64 hex digits."""
    return sha256_text(canonical(value))


def seal(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's fields, `seal` excepted. An edited manifest does not match its own seal."""
    fields = json.loads(json.dumps({name: value for name, value in manifest.items() if name != "seal"}))
    return sha256_text(json.dumps(fields, sort_keys=True))


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes; lone surrogates are allowed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folders(folder: Path) -> dict[str, str]:
    """Return the hash of everything in each folder, or file, that lies directly in a folder."""
    files: dict[str, list[list[str]]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        files.setdefault(relative.parts[0], []).append([str(relative), sha256_file(path)])
    return {name: fingerprint(listed) for name, listed in files.items()}


def differences(old: object, new: object) -> list[str]:
    """Return the fields in which two recipes differ, such as "sampling.temperature: 1.0 -> 0.7"."""
    return list(_differences(plain(old), plain(new), ""))


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{where}[{index}]")
    elif canonical(old) != canonical(new):
        yield f"{where}: {_change(canonical(old), canonical(new))}"


def _change(old: str, new: str) -> str:
    """Return "old -> new", shortened to the part that differs."""
    if max(len(old), len(new)) <= SHOWN:
        return f"{old} -> {new}"
    same = next((place for place, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    begin = max(0, same - SHOWN // 4)
    return f"{_cut(old, begin)} -> {_cut(new, begin)}"


def _cut(text: str, begin: int) -> str:
    part = text[begin : begin + SHOWN]
    return f"{'...' if begin else ''}{part}{'...' if begin + SHOWN < len(text) else ''}"
