"""The survey of the input: the number of rows, a hash of the rows, and a check that ids are unique.

The input is surveyed before anything is sent. The hash is that of the set of rows: neither their order nor their
division into files changes it. A dataset keeps the survey of its input, which is valid as long as no file has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice

from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.versions import CODE
from finephrase_dagster.corpora.ids import RepeatedIds
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.reader import COLUMNS, InputRow, SurveyedFile, rows_of, stamp

SURVEY = f"{META}/input.json"
BATCH = 1_000
NOTICE_SECONDS = 3.0


class DuplicateId(FinephraseError, exit_status=2):
    """Two rows of the input have the same id."""


class NoRows(FinephraseError, exit_status=2):
    """The input has no rows."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The content of the input.

    Attributes:
        files: paths or URLs, in the order given.
        limit: only the first so many rows are used; None: all.
    """

    files: tuple[str, ...]
    limit: int | None
    surveyed: tuple[SurveyedFile, ...]
    columns: tuple[str, str] = COLUMNS

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(file.rows for file in self.surveyed)

    @property
    def digest(self) -> str:
        """The hash of the set of rows."""
        return RowSet(self.rows, sum(file.total for file in self.surveyed)).digest

    @property
    def longest(self) -> int:
        """UTF-8 bytes of the longest text."""
        return max((file.longest for file in self.surveyed), default=0)

    @property
    def layout(self) -> str:
        """The hash of the rows in order, file by file: what a row's place in its file refers to."""
        return fingerprint([file.order for file in self.surveyed])[:SHORT]

    def is_current(self) -> bool:
        """Return whether no file has changed."""
        return all(stamp(path) == file.stamp for path, file in zip(self.files, self.surveyed, strict=True))

    def save(self, folder: Folder) -> None:
        """Keep the survey in a dataset's folder."""
        asked = {"limit": self.limit, "columns": self.columns, "reader": CODE["synthetic"]}
        content = {**asked, "files": [asdict(file) for file in self.surveyed]}
        folder.write(SURVEY, json.dumps(content).encode())


class RowSet:
    """A hash of a set of rows, computed row by row: the sum of the rows' hashes."""

    def __init__(self, rows: int = 0, total: int = 0) -> None:
        """Start with an empty set, or with the number of rows and the sum of a given one."""
        self.rows = rows
        self.sum = total
        self.longest = 0

    def add(self, row: InputRow) -> bytes:
        """Add a row: its id, its text, and the reason if it has none. Return its hash."""
        content = row.text.encode()
        self.longest = max(self.longest, len(content))
        text = hashlib.sha256(content).digest()
        digest = hashlib.sha256(b"%b\0%b%b" % (row.id.encode(), text, (row.skip or "").encode())).digest()
        self.sum += int.from_bytes(digest)
        self.rows += 1
        return digest

    @property
    def digest(self) -> str:
        total = (self.sum % 2**256).to_bytes(32) + self.rows.to_bytes(8)
        return hashlib.sha256(total).hexdigest()[:SHORT]


def saved_survey(
    folder: Folder, files: Sequence[str], limit: int | None, columns: tuple[str, str] = COLUMNS
) -> Survey | None:
    """Return the survey that a dataset keeps, if it is one of these files and none has changed."""
    if any(file.startswith("http") for file in files):  # a web server need not tell whether a file has changed
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, FinephraseError):
        content = json.loads(folder.read(SURVEY))
        surveyed = tuple(SurveyedFile(**{**file, "marks": tuple(file["marks"])}) for file in content["files"])
        survey = Survey(files=tuple(files), limit=limit, surveyed=surveyed, columns=columns)
        asked = (content["limit"], tuple(content["columns"]), content["reader"])
        if asked == (limit, columns, CODE["synthetic"]) and survey.is_current():
            return survey
    return None


def survey_input(
    files: Sequence[str],
    limit: int | None = None,
    log: Callable[[str], None] = lambda line: None,
    columns: tuple[str, str] = COLUMNS,
) -> Survey:
    """Read all rows once; `log` receives a line every few seconds, as no request is sent before the end.

    Raises:
        InputUnreadable: a file cannot be read, or a row has no id.
        DuplicateId: two rows have the same id; the message names it.
        NoRows: the files hold no rows.
    """
    ids, noticed = RepeatedIds(), time.monotonic()

    def report(earlier: int, rows: int) -> None:
        nonlocal noticed
        if time.monotonic() - noticed > NOTICE_SECONDS:
            noticed = time.monotonic()
            log(f"reading the input before the first request: {earlier + rows:,} rows so far")

    surveyed: list[SurveyedFile] = []
    for file in files:
        earlier = sum(one.rows for one in surveyed)
        left = None if limit is None else limit - earlier
        surveyed.append(_survey_file(file, left, columns, ids, partial(report, earlier)))
    survey = Survey(files=tuple(files), limit=limit, surveyed=tuple(surveyed), columns=columns)
    for name in ids.find(key for _, key in _ids(survey)):
        holding = dict.fromkeys(islice((path for path, key in _ids(survey) if key == name), 2))
        raise DuplicateId(f"{' and '.join(holding)}: more than one row has the id {name!r}. Give each row its own id.")
    if not survey.rows:
        raise NoRows(f"{', '.join(files) or 'the input'}: no rows. Name a file that has rows.")
    return survey


def _survey_file(
    file: str, limit: int | None, columns: tuple[str, str], ids: RepeatedIds, report: Callable[[int], None]
) -> SurveyedFile:
    before, content, order = stamp(file), RowSet(), hashlib.sha256()
    marks: list[tuple[int, int]] = []
    names: list[str] = []
    for row in rows_of(file, limit, columns=columns, marks=marks) if limit != 0 else ():
        order.update(content.add(row))
        names.append(row.id)
        if len(names) == BATCH:
            ids.add(names)
            names.clear()
            report(content.rows)
    ids.add(names)
    total = content.sum % 2**256
    return SurveyedFile(
        stamp=before,
        rows=content.rows,
        total=total,
        longest=content.longest,
        order=order.hexdigest(),
        marks=tuple(marks),
    )


def _ids(survey: Survey) -> Iterator[tuple[str, str]]:
    """Yield the file and the id of each row."""
    for path, file in zip(survey.files, survey.surveyed, strict=True):
        yield from ((path, row.id) for row in (rows_of(path, file.rows, columns=survey.columns) if file.rows else ()))
