"""The budget of a night: what it may take, and what a run takes. Where and how, so nothing of it is identity."""

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

PREFIX = "FINEPHRASE_NIGHT_"


class BudgetWrong(FinephraseError, exit_status=2):
    """A setting of the night is wrong, or no budget is set; the message names the variable."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What something takes.

    Attributes:
        documents: that are rephrased; what else is done with documents takes none.
        gpu_hours: that are paid for.
    """

    documents: int = 0
    gpu_hours: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(documents=self.documents + other.documents, gpu_hours=self.gpu_hours + other.gpu_hours)


def total(amounts: Iterable[Amount]) -> Amount:
    return sum(amounts, Amount())


class Night(BaseModel):
    """The settings of the night: each field is the variable `FINEPHRASE_NIGHT_<FIELD>`."""

    model_config = ConfigDict(frozen=True)

    documents: int | None = Field(default=None, ge=0, description="documents that may be rephrased")
    gpu_hours: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="GPU-hours")
    dollars: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="dollars for GPUs")
    gpu_hour_dollars: float = Field(default=3.0, ge=0, allow_inf_nan=False, description="price of one for an hour")
    goodput: float = Field(default=1.0, gt=0, le=1, description="the part of a GPU's time that does the work")
    cron: str = Field(default="0 22 * * *", description="when a night is opened")
    timezone: str = Field(default="UTC", description="of the cron")
    hours: float = Field(default=8.0, gt=0, le=24, description="for how long runs are launched")
    runs: int = Field(default=16, ge=1, description="runs that wait or run at the same time")

    @classmethod
    def from_environment(cls) -> Night:
        """The settings that the environment says.

        Raises:
            BudgetWrong: one is not what it must be.
        """
        said = {name: value for name in cls.model_fields if (value := os.environ.get(_variable(name)))}
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            wrong = [
                f"{_variable(str(one['loc'][0]))}={one['input']!r}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            ]
            raise BudgetWrong("; ".join(wrong)) from error

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if not is_valid_cron_string(value):
            raise ValueError("write five fields of cron, such as '0 22 * * *'")
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
        """The limits that are set.

        Raises:
            BudgetWrong: none is.
        """
        said = {"documents": self.documents, "GPU-hours": self.gpu_hours, "dollars": self.dollars}
        found = {name: float(limit) for name, limit in said.items() if limit is not None}
        if not found:
            raise BudgetWrong(
                f"no budget is set: set {_variable('documents')}, {_variable('gpu_hours')} or {_variable('dollars')} "
                "where the code location runs, and start it again"
            )
        return found

    def amount(self, planned: Planned) -> Amount:
        """What an item of the plan takes."""
        documents = planned.cost.documents if planned.item.stage == "synthetic" else 0
        return Amount(documents=documents, gpu_hours=planned.cost.gpu_hours / self.goodput)

    def exceeded(self, amount: Amount) -> list[str]:
        """The limits that an amount exceeds, with the figures."""
        takes = self.figures(amount)
        return [
            f"{takes[name]:,.4g} of {limit:,.4g} {name}"
            for name, limit in self.limits.items()
            if takes[name] > limit * (1 + 1e-9)
        ]

    def told(self, amount: Amount) -> str:
        """An amount beside the limits."""
        takes = self.figures(amount)
        return ", ".join(f"{takes[name]:,.4g} of {limit:,.4g} {name}" for name, limit in self.limits.items())

    def figures(self, amount: Amount) -> Mapping[str, float]:
        return {
            "documents": amount.documents,
            "GPU-hours": amount.gpu_hours,
            "dollars": amount.gpu_hours * self.gpu_hour_dollars,
        }


def number(tags: Mapping[str, str], name: str) -> float:
    """A number that a tag says; 0 where it says none."""
    try:
        value = float(tags.get(name, 0))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _variable(field: str) -> str:
    return f"{PREFIX}{field.upper()}"
