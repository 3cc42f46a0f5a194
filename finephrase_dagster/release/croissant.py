"""The metadata of a release in the Croissant format 1.0 (https://docs.mlcommons.org/croissant/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from finephrase_dagster.release.content import COLUMNS, ORIGIN

PARQUET = "application/x-parquet"
TYPES = {pa.string(): "sc:Text", pa.int64(): "sc:Integer", pa.bool_(): "sc:Boolean"}
TERMS = (
    *("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform", "equivalentProperty"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    **{term: f"cr:{term}" for term in TERMS},
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}


def croissant(
    *, name: str, description: str, license: str, version: str, files: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return the metadata of a release.

    Args:
        license: as the hub names it.
        files: the data files of each configuration, each with `path` from the folder of the release, `bytes`, `sha256`.
    """
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": file["path"],
            "name": file["path"],
            "contentUrl": file["path"],
            "contentSize": f"{file['bytes']} B",
            "encodingFormat": PARQUET,
            "sha256": file["sha256"],
        }
        for some in files.values()
        for file in some
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"{configuration}-files",
            "name": f"{configuration}-files",
            "encodingFormat": PARQUET,
            "includes": f"{configuration}/*.parquet",
        }
        for configuration in files
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
        "license": license,
        "version": version,
        "distribution": [*objects, *sets],
        "recordSet": [_record_set(configuration) for configuration in files],
    }


def _record_set(configuration: str) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{configuration}/{column}",
            "name": column,
            "description": text,
            "dataType": TYPES[type_],
            "source": {"fileSet": {"@id": f"{configuration}-files"}, "extract": {"column": column}},
        }
        for column, (type_, text) in {**COLUMNS, **ORIGIN}.items()
    ]
    return {"@type": "cr:RecordSet", "@id": configuration, "name": configuration, "field": fields}
