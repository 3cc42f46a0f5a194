"""The tables of the warehouse: four that are written, and views that show the manifests as rows.

`manifests` holds one row per artifact, also of earlier recipes; `current` lists the artifacts that each study refers
to now, with what its names for them mean. The views join the two: they have the columns `study` and `fingerprint`, and
only what a study has now.
"""

from __future__ import annotations

from finephrase_dagster.evaluate.metric import BITS, LAST, LAST_NAME, MEANS

VERSION = 4
"""Changes with the tables. A warehouse of another version is begun again from the artifacts."""

WRITTEN = {
    "schema": "version INTEGER",
    "manifests": "fingerprint VARCHAR, asset VARCHAR, part VARCHAR, version VARCHAR, manifest JSON, "
    "recorded_at TIMESTAMP DEFAULT current_timestamp, PRIMARY KEY (fingerprint, asset, part)",
    "current": "study VARCHAR, fingerprint VARCHAR, asset VARCHAR, part VARCHAR, external BOOLEAN, names JSON, "
    "PRIMARY KEY (study, asset, part)",
    "verdicts": "study VARCHAR, baseline VARCHAR, mixture VARCHAR, student VARCHAR, metric VARCHAR, verdict VARCHAR, "
    "difference DOUBLE, low DOUBLE, high DOUBLE, p_value DOUBLE, noise_sd DOUBLE, degrees_of_freedom DOUBLE, "
    "noise_source VARCHAR, matched BOOLEAN, rule VARCHAR, fingerprint VARCHAR, verdict_json JSON, "
    "recorded_at TIMESTAMP DEFAULT current_timestamp, "
    "PRIMARY KEY (study, baseline, mixture, student, metric, rule, fingerprint)",
}
"""The columns of each table that is written."""


def _facts(*paths: str) -> str:
    """Return columns from fields of the manifest: `path type`, or `path type column`."""
    columns = []
    for path in paths:
        field, kind, *name = path.split()
        column = name[0] if name else field.rpartition(".")[2]
        columns.append(f"(manifest->>'$.{field}')::{kind} AS {column}")
    return ", ".join(columns)


def _names(*names: str) -> str:
    """Return columns from what the study's names mean."""
    return ", ".join(f"names->>'$.{name}' AS {name}" for name in names)


def _paid(field: str) -> str:
    """Return a column with what all runs of a dataset paid; what its last run paid where there is no account."""
    account, run = (f"nullif((manifest->>'$.{place}.{field}')::DOUBLE, 0)" for place in ("goodput", "run"))
    return f"coalesce({account}, {run}) AS {field}"


PARTS = ("kept", "start", "idle", "repeated", "failed", "discarded", "unaccounted", "other")
"""The parts of a dataset's engine-seconds."""

_OF_RUN = "run, mixture, student, data_seed, model_seed, seed, decay_from"
_RUN = (
    "part AS run, names->>'$.mixture' AS mixture, names->>'$.student' AS student, "
    "(names->>'$.data_seed')::INTEGER AS data_seed, (names->>'$.model_seed')::INTEGER AS model_seed, "
    "names->>'$.seed' AS seed, names->>'$.decay_from' AS decay_from"
)
_CELL = _names("generator", "source", "prompt")


def _scores(kind: str, field: str) -> str:
    """Return a list of the scores of one kind at a point of the curve, each with its name."""
    path = f"{field}.\"' || name || '\"'"
    return (
        f"list_transform(json_keys(point, '$.{field}'), lambda name: {{'kind': '{kind}', 'name': name, "
        f"'score': json_extract(point, '$.{path})::DOUBLE, 'bits': json_extract(point, '$.{BITS}.{path})::DOUBLE}})"
    )


_MEANS = ", ".join(
    f"{{'kind': 'mean', 'name': '{mean}', 'score': (point->>'$.{mean}')::DOUBLE, "
    f"'bits': (point->>'$.{BITS}.{mean}')::DOUBLE}}"
    for mean in MEANS
)


def _over_last(column: str) -> str:
    """Return the mean of a column over the last steps up to this one; null if there are fewer."""
    return f"CASE WHEN count({column}) OVER latest = {LAST} THEN avg({column}) OVER latest END"


VIEWS = {
    "facts": "SELECT study, external, fingerprint, asset, part, names, manifest FROM current "
    "JOIN manifests USING (fingerprint, asset, part)",
    "superseded": "SELECT study, old.fingerprint, asset, part, fresh.fingerprint AS superseded_by, manifest, "
    "recorded_at FROM manifests old JOIN current fresh USING (asset, part) "
    "WHERE NOT EXISTS (FROM current WHERE current.fingerprint = old.fingerprint)",
    "generations": f"SELECT study, external, fingerprint, {_CELL}, "
    + _facts(
        "rows_in BIGINT",
        "completed BIGINT",
        "skipped BIGINT",
        "failed BIGINT",
        "prompt_tokens BIGINT",
        "completion_tokens BIGINT",
        "run.tokens_per_second DOUBLE",
        "training_run VARCHAR",
        "proxies JSON",
        "proxies_valid BOOLEAN",
    )
    + f", {_paid('gpu_hours')}, {_paid('dollars')} FROM facts WHERE asset LIKE 'synthetic/%'",
    "audits": f"SELECT study, fingerprint, {_CELL}, gate->>'$.name' AS gate, (gate->>'$.value')::DOUBLE AS value, "
    "(gate->>'$.threshold')::DOUBLE AS threshold, (gate->>'$.passed')::BOOLEAN AS passed, "
    "(gate->>'$.blocking')::BOOLEAN AS blocking, (gate->>'$.failing')::BIGINT AS failing, gate->'$.figures' AS figures "
    "FROM (SELECT *, unnest((manifest->'$.gates')::JSON[]) AS gate FROM facts WHERE asset LIKE 'audits/%')",
    "mixtures": "SELECT study, external, fingerprint, part AS mixture, "
    + _facts("tokens BIGINT budget")
    + ", coalesce(names->'$.components'->(component->>'$.version')->>'$', component->>'$.name') AS component, "
    "(component->>'$.weight')::DOUBLE AS weight, (component->>'$.tokens')::BIGINT AS tokens, "
    "(component->>'$.epochs')::DOUBLE AS epochs FROM "
    "(SELECT *, unnest((manifest->'$.components')::JSON[]) AS component FROM facts WHERE asset = 'mixtures/mixture')",
    "checkpoints": f"SELECT study, external, fingerprint, {_RUN}, "
    + _facts(
        "parameters BIGINT",
        "steps BIGINT",
        "tokens BIGINT",
        "seconds DOUBLE",
        "gpus INTEGER",
        "tokens_per_second DOUBLE",
        "final_loss DOUBLE",
    )
    + " FROM facts WHERE asset = 'training/checkpoint'",
    "scores": f"SELECT study, external, fingerprint, {_OF_RUN}, step, step = last_step AS final, score.kind, "
    f"score.name, score.score, score.bits AS {BITS}, {_over_last('score.score')} AS {LAST_NAME}, "
    f"{_over_last('score.bits')} AS {BITS}_{LAST_NAME}, "
    "json_extract(manifest, '$.tasks.\"' || score.name || '\".n')::INTEGER AS items, samples FROM "
    f"(SELECT *, unnest(list_concat({_scores('task', 'tasks')}, {_scores('category', 'categories')}, "
    f"[{_MEANS}])) AS score FROM "
    f"(SELECT study, external, fingerprint, {_RUN}, (point->>'$.step')::BIGINT AS step, place, point, manifest, "
    "(manifest->>'$.curve[#-1].step')::BIGINT AS last_step, names->>'$.samples' AS samples FROM "
    "(SELECT *, unnest(curve) AS point, generate_subscripts(curve, 1) AS place FROM "
    "(SELECT *, coalesce(names->'$.curve', manifest->'$.curve')::JSON[] AS curve FROM facts "
    "WHERE asset = 'evaluation/benchmark_scores')))) WHERE score.score IS NOT NULL "
    f"WINDOW latest AS (PARTITION BY study, run, score.kind, score.name ORDER BY place RANGE {LAST - 1} PRECEDING)",
    "throughput": "SELECT study, external, fingerprint, generator, 'generation' AS basis, "
    "source || '/' || prompt AS settings, tokens_per_second FROM generations WHERE tokens_per_second IS NOT NULL "
    "UNION ALL SELECT study, external, fingerprint, part, 'sweep', setting->>'$.settings', "
    "(setting->>'$.tokens_per_second')::DOUBLE FROM (SELECT *, unnest((manifest->'$.settings')::JSON[]) AS setting "
    "FROM facts WHERE asset = 'throughput/sweep')",
    "goodput": f"SELECT study, external, fingerprint, {_CELL}, "
    + _facts(
        *(
            f"goodput.{name} DOUBLE"
            for name in ("engine_seconds", "ideal_seconds", "prefill_seconds", "decode_seconds")
        ),
        *(f"goodput.parts.{part} DOUBLE {part}_seconds" for part in PARTS),
        *("goodput.goodput DOUBLE", "goodput.gpu_hours DOUBLE", "goodput.dollars DOUBLE", "goodput.runs INTEGER"),
        *(f"goodput.expected.{name} DOUBLE {name}_hours" for name in ("planned", "actual")),
        "goodput.expected.ratio DOUBLE actual_over_planned",
    )
    + " FROM facts WHERE asset LIKE 'synthetic/%' AND NOT external AND (manifest->'$.goodput') IS NOT NULL "
    "UNION ALL BY NAME SELECT *, ideal_seconds / engine_seconds AS goodput FROM "
    "(SELECT study, external, fingerprint, generator, source, prompt, gpu_hours, 3600 * gpu_hours AS engine_seconds, "
    "least(3600 * gpu_hours, completion_tokens / best) AS ideal_seconds FROM generations JOIN "
    "(SELECT study, generator AS model, max(tokens_per_second) AS best FROM throughput WHERE basis = 'sweep' "
    "GROUP BY ALL) USING (study) WHERE external AND gpu_hours > 0 "
    "AND starts_with(lower(split_part(generator, '/', -1)), lower(split_part(model, '/', -1))))",
    "costs": "SELECT study, external, fingerprint, asset, part, "
    "coalesce((manifest->>'$.seconds')::DOUBLE, (manifest->>'$.goodput.engine_seconds')::DOUBLE, "
    "(manifest->>'$.run.wall_seconds')::DOUBLE) AS seconds, "
    "coalesce(nullif((manifest->>'$.goodput.gpu_hours')::DOUBLE, 0), share * (manifest->>'$.run.gpu_hours')::DOUBLE, "
    "(manifest->>'$.gpus')::DOUBLE * (manifest->>'$.seconds')::DOUBLE / 3600) AS gpu_hours, "
    "coalesce((manifest->>'$.goodput.dollars')::DOUBLE, share * (manifest->>'$.run.dollars')::DOUBLE) AS dollars "
    "FROM (SELECT *, least(1, (manifest->>'$.completion_tokens')::DOUBLE / "
    "(manifest->>'$.run.completion_tokens')::DOUBLE) AS share FROM facts)",
}
"""The query of each view; a view may use those before it."""

STATEMENTS = "".join(
    (
        *(f"CREATE TABLE IF NOT EXISTS {name} ({columns});\n" for name, columns in WRITTEN.items()),
        *(f"CREATE OR REPLACE VIEW {name} AS {query};\n" for name, query in VIEWS.items()),
    )
)

READ_ALL = tuple(f"SELECT bit_xor(hash({name})) FROM {name}" for name in WRITTEN)
"""Queries that read every row."""
