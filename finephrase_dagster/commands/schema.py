"""The `schema` command: the JSON schema of study files, with which editors complete and check them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finephrase_dagster.commands.terminal import print_json
from finephrase_dagster.study.catalogue import Catalogue
from finephrase_dagster.study.expand import ALL
from finephrase_dagster.study.fields import SECTIONS
from finephrase_dagster.study.grid import CellGrid, MixtureGrid
from finephrase_dagster.study.spec import Study

Schema = dict[str, Any]


def schema() -> None:
    """Print the JSON schema of study files, for editors.

    Save it, and name it in the first line of a study file; an editor with a YAML language server then completes names,
    shows what each field means, and marks mistakes. `finephrase init` writes both.

    \b
    Example:
      finephrase schema > study.schema.json
      # first line of the study: # yaml-language-server: $schema=study.schema.json
    """
    from finephrase_dagster.catalogue import catalogue

    print_json(study_schema(catalogue()))


def study_schema(catalogue: Catalogue) -> Schema:
    """Return the JSON schema (draft 2020-12) of study files: `Study`, with the short forms that a file may use.

    A schema cannot know what another file defines or what entries have in common, so it accepts some files that
    `finephrase plan` refuses; it accepts every file that `plan` accepts.
    """
    made = Study.model_json_schema(ref_template="#/$defs/{model}")
    fields, definitions = made["properties"], made["$defs"]
    del fields["prompt_files"], definitions["SourceSpec"], definitions["Cell"]
    kinds = [_definition(kind, definitions) for kind in catalogue.source_kinds.values()]
    entries = {
        "generators": _partial("Generator", definitions),
        "sources": {"anyOf": [_partial(kind, definitions) for kind in kinds]},
        "mixtures": _partial("Mixture", definitions),
        "students": _partial("Student", definitions),
    }
    for section, entry in entries.items():
        definitions[f"{section}.entry"], entries[section] = entry, {"$ref": f"#/$defs/{section}.entry"}
        fields[section].pop("patternProperties", None)
        fields[section] |= {"additionalProperties": entries[section]}
    for section in catalogue.registries:
        fields[section] |= {"propertyNames": {"anyOf": [{"enum": list(catalogue.registries[section].entries)}, {}]}}
    fields["students"] = {"anyOf": [_list_of(catalogue.registries["students"].entries), fields["students"]]}
    fields["prompts"] = {"anyOf": [{"const": ALL}, _list_of(catalogue.prompts)]} | _about(fields["prompts"])
    fields["cells"]["items"] = {"$ref": f"#/$defs/{_definition(CellGrid, definitions)}"}
    fields["gates"] = _gates(catalogue) | _about(fields["gates"])
    fields["mixture_grids"] = {
        "type": "array",
        "description": "many mixtures in few lines",
        "items": {"$ref": f"#/$defs/{_definition(MixtureGrid, definitions)}"},
    }
    fields["defaults"] = {
        "type": "object",
        "description": "fields that entries have in common",
        "properties": {section: entries[section] for section in SECTIONS},
        "additionalProperties": False,
    }
    for name in ("Evaluation", "Tokenizer"):
        definitions[name].pop("required", None)
    definitions["Evaluation"]["properties"]["tasks"] |= _list_of(catalogue.tasks)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A study of finephrase_dagster"}
    result: Schema = _with_written_numbers({**made, **head, "required": ["name", "description"]})
    return result


def _with_written_numbers(schema: Any) -> Any:
    """Return a schema whose numbers may have underscores, which other readers of YAML take for a text."""
    if isinstance(schema, list):
        return [_with_written_numbers(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: _with_written_numbers(one) for name, one in schema.items()}
    if schema.get("type") in ("integer", "number"):
        changed |= {"type": [schema["type"], "string"], "pattern": "^[0-9_]+$"}
    return changed


def _definition(spec: type[Any], definitions: Schema) -> str:
    """Add the schema of a spec, with the schemas that it refers to, and return its name."""
    own = spec.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= own.pop("$defs", {})
    definitions[spec.__name__] = own
    return spec.__name__


def _partial(name: str, definitions: Schema) -> Schema:
    """Return the schema of an entry: a registry, defaults or what is known of it may fill what it leaves out."""
    entry = {key: value for key, value in definitions[name].items() if key not in ("required", "title")}
    origin = {"type": "string", "description": "an entry of the registry, whose fields are used"}
    return entry | {"properties": {"from": origin, **entry["properties"]}}


def _gates(catalogue: Catalogue) -> Schema:
    """Return the schema of the gates: a threshold or settings for each; and for each prompt, gates of its own."""
    gate = {"type": ["number", "object"]}
    return {
        "type": "object",
        "properties": {
            name: gate | {"examples": [settings["threshold"]]} for name, settings in catalogue.gates.items()
        },
        "additionalProperties": {"type": "object"},
    }


def _list_of(names: Iterable[str]) -> Schema:
    """Return the schema of a list of names, of which some are known."""
    return {"type": "array", "items": {"anyOf": [{"enum": list(names)}, {"type": "string"}]}, "minItems": 1}


def _about(field: Mapping[str, Any]) -> Schema:
    return {key: field[key] for key in ("description", "examples") if key in field}
