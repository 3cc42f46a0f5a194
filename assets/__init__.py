"""The Dagster assets, one file a stage of the lineage graph; `definitions.py` alone imports them."""
