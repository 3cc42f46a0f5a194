"""Proxies: scores of completions and their sources that a model gives. They are cheap, and do not predict the result.

In the published study, the mean score of the completions says next to nothing about the student that was trained on
them. So a proxy is recorded and never decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Any, Self

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Gate, Measure, Measurement, Settings
from finephrase_dagster.audit.row_sample import RowSample
from finephrase_dagster.errors import FinephraseError

Score = Callable[[Sequence[str]], list[float]]
"""Returns the score of each text."""


class ScoringModelError(FinephraseError, exit_status=2):
    """The model of a proxy cannot be used."""


class ProxyScore(Measure):
    """Scores a sample of the completions, and their sources."""

    def __init__(
        self, name: str, open_model: Callable[[Settings], Score], dataset: AuditedDataset, settings: Settings
    ) -> None:
        super().__init__(dataset, settings)
        self._name, self._open_model = name, open_model
        self._sample = RowSample(settings["rows"], sources=True)

    def add(self, rows: Sequence[AuditedRow]) -> None:
        self._sample.add(rows)

    def merge(self, later: Self) -> None:
        self._sample.merge(later._sample)

    def result(self) -> Measurement:
        rows, score, name = self._sample.rows(), self._open_model(self.settings), self._name
        self._sample = RowSample(0)
        with_source = [row for row in rows if row.source_text]
        outputs = dict(zip(rows, score([row.text for row in rows]), strict=True))
        inputs = dict(zip(with_source, score([row.source_text or "" for row in with_source]), strict=True))
        mean = fmean(outputs.values()) if rows else 0.0
        figures: dict[str, Any] = {f"{name}_rows": len(rows), f"output_{name}": mean}
        detail = f"mean score of {len(rows):,} completions {mean:.3f}"
        if inputs:
            gains = [outputs[row] - inputs[row] for row in with_source]
            figures[f"input_{name}"] = fmean(inputs.values())
            figures[f"{name}_difference"] = fmean(gains)
            figures[f"{name}_improvement"] = fmean(gain > 0 for gain in gains)
            detail += f", of their sources {figures[f'input_{name}']:.3f}"
        return Measurement(value=mean, detail=f"{detail}; a proxy, which does not predict the result", figures=figures)


def proxy_gate(*, name: str, scorer: str, defaults: Settings, open_model: Callable[[Settings], Score]) -> Gate:
    """Return the gate that records a proxy.

    Args:
        scorer: the classifier, in a few words.
        defaults: the settings `model`, which is None, `rows`, and those that `open_model` needs besides.
    """
    return Gate(
        name=name,
        sentence=f"the mean score that {scorer} gives the completions: a proxy, which does not predict the result",
        bound="at least",
        defaults={"threshold": 0, **defaults},
        reason="In the published study the mean score of the completions hardly correlates with the result, so it is "
        "only recorded.",
        remedy="Nothing needs doing: the score is only recorded. The figures compare the completions with their "
        "sources: the means, the difference, and the share of completions that score higher than their source.",
        measure=partial(ProxyScore, name, open_model),
        blocking=False,
        recorded=True,
        needs=("model",),
    )
