"""Source text: from where it lies into numbered shards that the rest of the study reads."""
