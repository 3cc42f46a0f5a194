"""FinePhrase as a Dagster asset graph: from raw text to a verdict on synthetic pretraining data."""
