"""Results: the warehouse of scores, audits and manifests, and what is asked of it."""
