"""The scheduler of workers, simulated: its own cost, and the goodput of fleets that fail.

1. 1,000 workers of 10 documents/s share shards of 20,000 documents for five hours. Processor time and requests to the
   store are those of the real leases, which the simulation uses; both count per worker and second.
2. Goodput of 100 GPUs for four hours: shards of two sizes, workers that die every 24, 6 and 2 hours on average, half of
   them without a warning, and are replaced after 5 minutes; an engine starts in 2 minutes. The published run had a
   goodput of about 44 %; how often its workers failed is not published.

    python benchmarks/production.py [--hours 5]
"""

from __future__ import annotations

import argparse
import json
import os
import time

from finephrase_dagster.production.simulation import Fleet, best_settings, simulate

RATE, SHARD_ROWS, SIZES, UPLOADS = 10, 20_000, (5_000, 100_000), (0.5, 60.0)
TARGET_CORE_SHARE, TARGET_REQUESTS, TARGET_GOODPUT = 0.01, 2.0, 0.9


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=5.0, help="of the 1,000 workers")
    arguments = parser.parse_args()
    fleet = Fleet(workers=1000, rate=RATE, spread=0.1, hours_between_failures=24, warned=0.5)
    began = time.process_time()
    outcome = simulate(int(fleet.workers * RATE * 3600 * arguments.hours), SHARD_ROWS, fleet)
    core_share = (time.process_time() - began) / (fleet.workers * outcome.seconds)
    goodput = {}
    for hours in (24, 6, 2):
        size, upload, best = best_settings(
            100 * RATE * 3600 * 4,
            Fleet(workers=100, rate=RATE, spread=0.1, hours_between_failures=hours, warned=0.5),
            sizes=SIZES,
            uploads=UPLOADS,
        )
        goodput[hours] = {"shard_rows": size, "upload_seconds": upload, "goodput": round(best.goodput, 3)}
    figures = {
        "core_share_per_worker": core_share,
        "target_core_share": TARGET_CORE_SHARE,
        "requests_per_shard_minute": round(outcome.requests_per_shard_minute, 2),
        "target_requests": TARGET_REQUESTS,
        "goodput_of_1000_workers": round(outcome.goodput, 3),
        "goodput_by_hours_between_failures": goodput,
        "target_goodput": TARGET_GOODPUT,
        **vars(arguments),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
