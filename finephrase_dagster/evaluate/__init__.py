"""The benchmark suite: twelve tasks, their items, one metric, and the scores of a checkpoint."""
