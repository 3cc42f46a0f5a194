"""Runs vLLM's server on a CPU so that its engine process starts as a fork of the server.

vLLM 0.32 chooses `spawn` on a CPU: the engine process then imports everything a second time, 13 of the 29 seconds of
processor time that a start takes. On GPUs vLLM forks at the same point. OpenMP's threads do not survive a fork, but
the server has started none by then.
"""

import os
import runpy
from typing import Any

SERVER = "vllm.entrypoints.openai.api_server"


def fork_the_engine() -> None:
    """Choose `fork` where vLLM's CPU platform has just chosen `spawn`."""
    from vllm.platforms.cpu import CpuPlatform

    choose_spawn = CpuPlatform.check_and_update_config

    def choose_fork(vllm_config: Any) -> None:
        choose_spawn(vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    setattr(CpuPlatform, choose_spawn.__name__, staticmethod(choose_fork))  # mypy knows no other way


if __name__ == "__main__":
    fork_the_engine()
    runpy.run_module(SERVER, run_name="__main__")
