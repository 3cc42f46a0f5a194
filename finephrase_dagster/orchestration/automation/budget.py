"""The budget of a nightly run: its limits, and what each Dagster run costs. None of it enters a fingerprint."""

from __future__ import annotations

import math
import os
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dagster._utils.schedules import is_valid_cron_string
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.plan.plan import Planned, Terms

PREFIX = "FINEPHRASE_NIGHTLY_"


class InvalidBudget(FinephraseError, exit_status=2):
    """A setting of the nightly budget run is invalid, or no limit is set; the message names the variable."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Documents and GPU-hours that a piece of work costs.

    Attributes:
        documents: documents to rephrase; other stages count none.
        gpu_hours: GPU-hours that are paid for.
    """

    documents: int = 0
    gpu_hours: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(documents=self.documents + other.documents, gpu_hours=self.gpu_hours + other.gpu_hours)


def total(amounts: Iterable[Amount]) -> Amount:
    """Return the sum of amounts."""
    return sum(amounts, Amount())


class NightlyBudget(BaseModel):
    """The settings of the nightly budget run: each field is the variable `FINEPHRASE_NIGHTLY_<FIELD>`."""

    model_config = ConfigDict(frozen=True)

    documents: int | None = Field(default=None, ge=0, description="limit: documents to rephrase")
    gpu_hours: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="limit: GPU-hours")
    dollars: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="limit: dollars for GPUs")
    gpu_hour_dollars: float = Field(default=3.0, ge=0, allow_inf_nan=False, description="dollars per GPU-hour")
    goodput: float = Field(default=1.0, gt=0, le=1, description="share of a GPU's time that does useful work")
    cron: str = Field(default="0 22 * * *", description="when a nightly budget run starts")
    timezone: str = Field(default="UTC", description="time zone of the cron expression")
    hours: float = Field(default=8.0, gt=0, le=24, description="how many hours it launches Dagster runs")
    runs: int = Field(default=16, ge=1, description="Dagster runs that are queued or running at a time")

    @classmethod
    def from_environment(cls) -> NightlyBudget:
        """Return the settings from the environment.

        Raises:
            InvalidBudget: a variable has an invalid value.
        """
        values = {name: value for name in cls.model_fields if (value := os.environ.get(_variable(name)))}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [
                f"{_variable(str(one['loc'][0]))}={one['input']!r}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            ]
            raise InvalidBudget("; ".join(problems)) from error

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if not is_valid_cron_string(value):
            raise ValueError("write a cron expression of five fields, such as '0 22 * * *'")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError("write a name of the time zone database, such as Europe/Berlin")
        return value

    @property
    def terms(self) -> Terms:
        return Terms(gpu_hour_dollars=self.gpu_hour_dollars, goodput=self.goodput)

    @property
    def limits(self) -> dict[str, float]:
        """Return the limits that are set.

        Raises:
            InvalidBudget: no limit is set.
        """
        limits = {"documents": self.documents, "GPU-hours": self.gpu_hours, "dollars": self.dollars}
        given = {name: float(limit) for name, limit in limits.items() if limit is not None}
        if not given:
            raise InvalidBudget(
                f"no budget is set. Set {_variable('documents')}, {_variable('gpu_hours')} or {_variable('dollars')} "
                "in the environment of the code location and restart it."
            )
        return given

    def amount(self, planned: Planned) -> Amount:
        """Return what an item of the plan costs."""
        documents = planned.cost.documents if planned.item.stage == "synthetic" else 0
        return Amount(documents=documents, gpu_hours=planned.cost.gpu_hours / self.goodput)

    def exceeded(self, amount: Amount) -> list[str]:
        """Return the limits that an amount exceeds, with the figures."""
        figures = self.figures(amount)
        return [
            f"{figures[name]:,.4g} of {limit:,.4g} {name}"
            for name, limit in self.limits.items()
            if figures[name] > limit * (1 + 1e-9)
        ]

    def describe(self, amount: Amount) -> str:
        """Return an amount next to the limits, such as `3 of 8 GPU-hours`."""
        figures = self.figures(amount)
        return ", ".join(f"{figures[name]:,.4g} of {limit:,.4g} {name}" for name, limit in self.limits.items())

    def figures(self, amount: Amount) -> Mapping[str, float]:
        """Return an amount in the units of the limits."""
        return {
            "documents": amount.documents,
            "GPU-hours": amount.gpu_hours,
            "dollars": amount.gpu_hours * self.gpu_hour_dollars,
        }


def tag_number(tags: Mapping[str, str], name: str) -> float:
    """Return a tag's value as a number; 0 if the tag is missing or no number."""
    try:
        value = float(tags.get(name, 0))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _variable(field: str) -> str:
    return f"{PREFIX}{field.upper()}"
