"""Keep lighteval from downloading a file when it starts.

Python imports this module at its start if PYTHONPATH names its folder. lighteval builds its task registry by importing
all of its bundled tasks, and `tiny_benchmarks` downloads a file when it is imported; this module takes its place.
"""

import sys
import types

_NAME = "lighteval.tasks.tasks.tiny_benchmarks"
sys.modules.setdefault(_NAME, types.ModuleType(_NAME, "Stands in for a task that downloads a file on import."))
