"""What a study would run, why, and what it costs."""
