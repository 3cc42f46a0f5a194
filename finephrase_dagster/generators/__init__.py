"""Models that rephrase, ready on disk: packaged, from the hub, or in a local folder."""
