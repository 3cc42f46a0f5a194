"""Whether a study's choice holds by other scores: bits per byte, the last five checkpoints, held-out tasks."""

from __future__ import annotations

from dataclasses import dataclass

from finephrase_dagster.evaluate.metric import FORMS, Metric
from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.verdict import ANSWERING, Verdict, compare


@dataclass(frozen=True, kw_only=True)
class OtherScore:
    """The chosen mixture by one score.

    Attributes:
        verdict: on the chosen mixture against the baseline.
        rank: of the chosen mixture among all, from 1.
        best: the best mixture by this score.
    """

    metric: Metric
    verdict: Verdict
    rank: int
    best: str

    @property
    def held(self) -> bool | None:
        """Whether the chosen mixture is on the same side of the baseline as better; None without a difference."""
        difference = self.verdict.difference
        return None if difference is None else self.metric.sign * difference > 0


def candidates(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on mixtures that can be compared with the baseline, best first; original text if no other."""
    matched = [verdict for verdict in evidence.verdicts if not verdict.mismatches and verdict.difference is not None]
    synthetic = [one for one in matched if evidence.entry(one.arm.mixture).kind != "original"] or matched
    return sorted(synthetic, key=lambda verdict: -(verdict.difference or 0.0))


def choice(evidence: Evidence) -> Verdict | None:
    """Return the verdict that answers the study's question (`ANSWERING`), of several the best; None without any."""
    return min(candidates(evidence), key=lambda verdict: ANSWERING.index(verdict.verdict), default=None)


def other_scores(evidence: Evidence) -> list[OtherScore]:
    """Return the chosen mixture by each measure and estimate of the macro score and of the held-out tasks."""
    chosen = choice(evidence)
    if chosen is None:
        return []
    runs = [run for entry in evidence.entries for run in entry.runs]
    found = []
    for metric in (Metric(name, form.bits, form.averaged) for name in ("macro", "held_out") for form in FORMS):
        scored = {
            entry.mixture: metric.sign * entry.scores[str(metric)]
            for entry in evidence.entries
            if str(metric) in entry.scores
        }
        if not {chosen.arm.mixture, evidence.baseline.mixture} <= scored.keys():
            continue
        order = sorted(scored, key=lambda mixture: -scored[mixture])
        verdicts = compare(runs, evidence.baseline.mixture, metric=str(metric))
        found.append(
            OtherScore(
                metric=metric,
                verdict=next(verdict for verdict in verdicts if verdict.arm.mixture == chosen.arm.mixture),
                rank=order.index(chosen.arm.mixture) + 1,
                best=order[0],
            )
        )
    return found
