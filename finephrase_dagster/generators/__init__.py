"""Models that rephrase: resolving one that exists, and training the embedded one."""
