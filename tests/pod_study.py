"""A code location for tests of pods: the study that the environment names, on the cluster that it names."""

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.study.paths import Paths

defs = build_defs(Lineage.read(Paths.from_environment()))
