"""The release: synthetic datasets as one published dataset, with its card, its metadata and its lineage."""
