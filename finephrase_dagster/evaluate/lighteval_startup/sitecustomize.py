"""Let lighteval's own command start offline, and with the huggingface_hub of today.

Python imports this module at its start if PYTHONPATH names its folder. lighteval 0.13 builds its task registry by
importing all of its bundled tasks, and some cannot be imported: they are replaced by empty modules.
"""

import sys
import types

REPLACED = (
    "lighteval.tasks.tasks.tiny_benchmarks",  # downloads a file
    "lighteval.tasks.tasks.mt_bench.main",  # calls a method of huggingface_hub with an argument that was removed
    "lighteval.tasks.tasks.mix_eval.main",  # the same
)

for name in REPLACED:
    sys.modules.setdefault(name, types.ModuleType(name))
