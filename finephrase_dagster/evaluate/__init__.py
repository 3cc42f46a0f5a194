"""The benchmark suite: twelve tasks and ARC-Challenge, their items, one metric, and a checkpoint's scores."""
