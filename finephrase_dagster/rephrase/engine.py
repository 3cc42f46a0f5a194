"""The engine: a vLLM server of our own, started, watched and stopped, on 127.0.0.1 alone.

An engine says where a model answers (`url`, `model`) and whether it still can (`check`). `Engine` starts
one; `Endpoint` names one that somebody else runs. Nothing here decides what is generated: flags that
would change the completions are refused, for they belong to the recipe.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

from finephrase_dagster.artifacts.processes import end, last_lines
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase import guard
from finephrase_dagster.study.generator import Generator

Flags = Mapping[str, str | int | float | bool]

FLAGS: Flags = {
    "enable_prefix_caching": True,
    # The request says how to sample; the server adds nothing of its own from generation_config.json.
    "generation_config": "vllm",
    "disable_uvicorn_access_log": True,
}

CPU_FLAGS: Flags = {
    "enforce_eager": True,  # compiling takes longer than a small model's whole run
    "max_num_seqs": 128,
    "max_num_batched_tokens": 4096,
    "block_size": 32,  # 128 by default: too coarse for a document's prefix to be shared
    # A prompt prefilled in chunks by a request with a seed kills vLLM 0.32 on the CPU ("CPU Generator does
    # not use offset"): so every prompt is prefilled whole.
    "enable_chunked_prefill": False,
    # One process less to start: 18 s instead of 25 s.
    "distributed_executor_backend": "uni",
}

CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; unbounded, it takes most of the machine
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # what the uni executor asks for on the CPU
    # All cores: server and driver together take 3 % of what the model takes, so a core of their own stood idle.
    "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    # Threads that wait leave their core to server and driver; spinning they are no faster, and slow both down.
    "OMP_WAIT_POLICY": "PASSIVE",
}

OWN_FLAGS = frozenset({"model", "served_model_name", "host", "port", "max_model_len"})
IDENTITY_FLAGS = frozenset(
    {
        "chat_template",
        "enable_lora",
        "generation_config",
        "hf_overrides",
        "kv_cache_dtype",
        "logits_processors",
        "lora_modules",
        "override_generation_config",
        "quantization",
        "revision",
        "tokenizer",
        "tokenizer_revision",
    }
)

LOCALHOST = "127.0.0.1"

_PREFIX = re.compile(r"^\(\w+ pid=\d+\) ?(ERROR [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_ERROR = re.compile(r"([\w.]*(Error|Exception)\b.*:|\S+: error: )")


class EngineFailed(FinephraseError, retryable=True):
    """The engine did not start, died, or answers nothing; the message holds its own last words."""


class EngineFlagRefused(FinephraseError, exit_status=2):
    """The study sets an engine flag that is not its own to set there."""


class Held(Protocol):
    """Devices that an engine holds while it runs."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables by which its processes see these devices alone."""

    @property
    def files(self) -> tuple[int, ...]:
        """What its processes inherit, so that the devices are held until the last of them has ended."""

    def release(self) -> None:
        """Lets others have them."""


class EngineLike(Protocol):
    """Where a model answers OpenAI's chat completions."""

    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def restartable(self) -> bool:
        """Whether it is ours to start again."""

    def check(self) -> None:
        """Raises EngineFailed if it is known to be dead."""

    def restart(self) -> None:
        """Starts it again, whatever state it is in."""

    def stop(self) -> None:
        """Ends it."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server that somebody else runs, such as `http://127.0.0.1:8000`."""

    url: str
    model: str
    restartable: bool = False

    def check(self) -> None:
        """Nothing is known about it but its answers."""

    def restart(self) -> None:
        raise EngineFailed(f"{self.url} is not ours to start")

    def stop(self) -> None:
        """It is not ours to end."""


class Engine:
    """A vLLM server for one model; start it once and share it between runs.

    `start` may be called any number of times, so that `engine.start` is what a run takes that needs an
    engine only if there is something to send. A guard process ends the server when this process ends,
    however it ends.
    """

    def __init__(
        self,
        *,
        model: Path,
        name: str,
        context: int,
        flags: Flags,
        log: Path,
        devices: Callable[[], Held] | None = None,
        start_seconds: float = 1800,
    ) -> None:
        """Describes an engine; nothing is started yet.

        Args:
            model: the model's folder, in Hugging Face format.
            name: the name that requests use for it.
            context: tokens of prompt and completion together.
            flags: vLLM's flags, such as `max_num_seqs: 64`; True is a switch, False its `--no-` form.
            log: the file that keeps all the server says; later starts add to it.
            devices: takes the devices that it needs, from its start to its stop; None: nobody else uses them.
            start_seconds: how long a start may take while the server is alive.

        Raises:
            EngineFlagRefused: a flag that this class sets itself, or that would change the completions.
        """
        for flag in flags:
            plain = flag.strip("-").replace("-", "_")
            if plain in OWN_FLAGS:
                raise EngineFlagRefused(f"engine flag {flag!r} is set by the run itself; remove it")
            if plain in IDENTITY_FLAGS:
                raise EngineFlagRefused(
                    f"engine flag {flag!r} changes the completions, and 'engine' is not part of the "
                    "recipe; remove it (a quantised model is a model of its own: name its folder)"
                )
        self.model = name
        self.log = log
        self.start_seconds = start_seconds
        defaults: Flags = {**FLAGS, **CPU_FLAGS} if on_cpu() else FLAGS
        chosen = {**defaults, **{flag.strip("-").replace("-", "_"): value for flag, value in flags.items()}}
        chosen["max_model_len"] = context
        if chosen.get("enable_chunked_prefill") is False:
            chosen["max_num_batched_tokens"] = max(int(chosen.get("max_num_batched_tokens", 0)), context)
        self._arguments = ["--model", str(model), "--served-model-name", name, *arguments(chosen)]
        self._devices = devices
        self._held: Held | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._log_start = 0

    @classmethod
    def of(
        cls, generator: Generator, *, model: Path, name: str, log: Path, devices: Callable[[], Held] | None = None
    ) -> Engine:
        """The engine of a study's generator."""
        flags, context = generator.engine, generator.context
        return cls(model=model, name=name, context=context, flags=flags, log=log, devices=devices)

    @property
    def url(self) -> str:
        return f"http://{LOCALHOST}:{self._port}"

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> Engine:
        """Starts the server and waits until it answers; does nothing if it runs.

        Raises:
            EngineFailed: it ended before it answered (with its last error lines), or took too long.
        """
        if self.running:
            return self
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self._held is None and self._devices is not None:
                self._held = self._devices()
            self._launch()
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    @property
    def restartable(self) -> bool:
        return True

    def restart(self) -> None:
        """Ends the server if it runs, and starts it.

        Raises:
            EngineFailed: as for `start`.
        """
        self._end()  # and keeps its devices
        self.start()

    def _launch(self) -> None:
        with socket.socket() as free:
            free.bind((LOCALHOST, 0))
            self._port = free.getsockname()[1]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *self._arguments]
        command += ["--host", LOCALHOST, "--port", str(self._port)]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-P", guard.__file__, str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment(), **(self._held.environment if self._held else {})},
                pass_fds=self._held.files if self._held else (),
                start_new_session=True,
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while not self._healthy():
            self.check()
            if time.monotonic() > deadline:
                raise self._failed(f"gives no answer after {self.start_seconds:.0f} s")
            time.sleep(0.1)

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection(LOCALHOST, self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def check(self) -> None:
        """Raises EngineFailed with the server's last error lines if it has ended."""
        if not self.running:
            raise self._failed("has ended")

    def _failed(self, what: str) -> EngineFailed:
        said = last_words(self.log, self._log_start)
        return EngineFailed(f"engine {self.model} {what}. It said last:\n{said}\nAll it said: {self.log}")

    def stop(self) -> None:
        """Ends the server and all its processes, and lets go of its devices; does nothing if there are none."""
        self._end()
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _end(self) -> None:
        process, self._guard = self._guard, None
        if process is None:
            return
        assert process.stdin is not None
        end(process, grace_seconds=guard.GRACE_SECONDS)
        process.stdin.close()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


def on_cpu() -> bool:
    """Whether the installed vLLM is a build for CPUs."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return distribution == "vllm-cpu" or "+cpu" in metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return False


def environment() -> dict[str, str]:
    """The server's environment: offline, silent about usage, and bounded on the CPU."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # Without cached bytecode each of the server's processes compiles some 5,000 modules: 17 s instead of 6.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    if on_cpu():
        variables = {**CPU_ENVIRONMENT, **variables}
    return variables


def arguments(flags: Flags) -> list[str]:
    """vLLM's command line for a mapping: `--name value`, `--name` for True, `--no-name` for False."""
    line = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{option}" if value else f"--no-{option}")
        else:
            line += [f"--{option}", str(value)]
    return line


def last_words(log: Path, start: int = 0, lines: int = 12) -> str:
    """The error lines at the end of a log, from byte `start` on; the last lines if it names no error."""
    plain = [_PREFIX.sub("", line) for line in last_lines(log, start=start)]
    errors: list[str] = []
    for place, line in enumerate(plain):
        if _ERROR.match(line):
            errors.append(line)
            for more in plain[place + 1 : place + 3]:  # a validation error says what is wrong below its name
                if not more.startswith("  ") or more.startswith("    "):
                    break
                errors.append(more)
    chosen = list(dict.fromkeys(errors or [line for line in plain if line.strip()]))[-lines:]
    return "\n".join(f"  {line}" for line in chosen)
