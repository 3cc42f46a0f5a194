"""A code location for tests of pods: the study that the environment names, on the cluster that it names."""

from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.study.paths import Paths

defs = build_defs(read_lineage(Paths.from_environment()))
