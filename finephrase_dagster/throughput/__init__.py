"""The throughput sweep: which settings make a generator's engine fastest, on this machine and its own documents."""
