"""Servers that complete requests: `Engine`, a vLLM server of ours, and `Endpoint`, a server that others run.

An engine is started, watched and stopped here, and listens on 127.0.0.1 only. Flags that would change the
completions are refused, because they belong in the recipe.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finephrase_dagster.artifacts.alias import plain_path
from finephrase_dagster.artifacts.engine_flags import flag_name
from finephrase_dagster.artifacts.processes import end, last_lines
from finephrase_dagster.artifacts.processor import known_variables, on_cpu
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase import cpu_server, guard
from finephrase_dagster.study.generator import Generator

Flags = Mapping[str, str | int | float | bool]

FLAGS: Flags = {
    "enable_prefix_caching": True,
    # Requests hold all sampling values; the server must not add any from generation_config.json.
    "generation_config": "vllm",
    "disable_uvicorn_access_log": True,
}

CPU_FLAGS: Flags = {
    "enforce_eager": True,  # compiling takes longer than a small model's complete run
    "max_num_seqs": 128,
    "max_num_batched_tokens": 4096,
    "block_size": 32,  # 128 by default: too coarse for a document's prefix to be shared
    # vLLM 0.32 on the CPU dies if the prompt of a request with a seed is prefilled in chunks ("CPU Generator
    # does not use offset").
    "enable_chunked_prefill": False,
    # Starts one process less: 18 s instead of 25 s.
    "distributed_executor_backend": "uni",
}

CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; unbounded, it takes most of the machine
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # required by the uni executor on the CPU
    # All cores: server and client need 3 % of the model's time, so a core reserved for them would be idle.
    "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    # Waiting threads give their core to server and client; spinning is no faster and slows both down.
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
        "trust_remote_code",
    }
)

LOCALHOST = "127.0.0.1"

_PREFIX = re.compile(r"^\(\w+ pid=\d+\) ?(ERROR [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_ERROR = re.compile(r"([\w.]*(Error|Exception)\b.*:|\S+: error: )")


class EngineFailed(FinephraseError, retryable=True):
    """The engine did not start, died, or answers nothing; the message ends with the last lines of its log."""


class EngineFlagRefused(FinephraseError, exit_status=2):
    """The study sets an engine flag that the run sets itself, or that belongs in the recipe."""


class DeviceLease(Protocol):
    """Devices reserved for an engine."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables that make only these devices visible."""

    def environments(self, parts: int) -> Sequence[Mapping[str, str]]:
        """Environment variables for several engines, each of which gets an equal share of the devices."""

    @property
    def files(self) -> tuple[int, ...]:
        """File descriptors that the engine's processes inherit: the devices stay reserved until the last one ends."""

    def release(self) -> None:
        """Give the devices back."""


class EngineLike(Protocol):
    """A server with OpenAI's chat completions."""

    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def restartable(self) -> bool:
        """Whether it is an engine of ours, which the client restarts when it dies."""

    def check(self) -> None:
        """Raise EngineFailed if it is known to be dead."""

    def restart(self) -> None:
        """Restart it, whatever state it is in."""

    def stop(self) -> None:
        """Stop it."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server that others run, such as `http://127.0.0.1:8000`."""

    url: str
    model: str
    restartable: bool = False

    def check(self) -> None:
        """Do nothing: only its answers show whether it is alive."""

    def restart(self) -> None:
        raise EngineFailed(f"{self.url} is run by others and cannot be restarted from here")

    def stop(self) -> None:
        """Do nothing: others run it."""


class Engine:
    """A vLLM server for one model, which several runs may share.

    `start` may be called any number of times: a run gets `engine.start` and calls it if it has requests to send. A
    guard process ends the server when this process ends, even if it is killed.
    """

    def __init__(
        self,
        *,
        model: Path,
        name: str,
        context: int,
        flags: Flags,
        log: Path,
        devices: Callable[[], DeviceLease] | None = None,
        template: str | None = None,
        start_seconds: float = 1800,
    ) -> None:
        """Describe an engine; nothing is started yet.

        Args:
            model: the model's folder, in Hugging Face format.
            name: the name that requests use for it.
            context: maximum tokens of prompt and completion together.
            flags: vLLM's flags, such as `max_num_seqs: 64`; True is a switch, False its `--no-` form.
            log: file with the server's output; later starts append to it.
            devices: reserves devices from start to stop; None: no reservation is needed.
            template: the chat template, if it is not the model's own.
            start_seconds: longest time a start may take.

        Raises:
            EngineFlagRefused: a flag is set by this class, or would change the completions.
        """
        for flag in flags:
            plain = flag_name(flag)
            if plain in OWN_FLAGS:
                raise EngineFlagRefused(f"engine flag {flag!r} is set by the run itself; remove it")
            if plain in IDENTITY_FLAGS:
                raise EngineFlagRefused(
                    f"engine flag {flag!r} changes the completions, and 'engine' is not part of the "
                    "recipe; remove it (for a quantised model, name its folder as the model)"
                )
        self.model = name
        self.log = log
        self.start_seconds = start_seconds
        defaults: Flags = {**FLAGS, **CPU_FLAGS} if on_cpu() else FLAGS
        chosen = {**defaults, **{flag_name(flag): value for flag, value in flags.items()}}
        chosen["max_model_len"] = context
        if chosen.get("enable_chunked_prefill") is False:
            chosen["max_num_batched_tokens"] = max(int(chosen.get("max_num_batched_tokens", 0)), context)
        self._arguments = ["--model", str(plain_path(model)), "--served-model-name", name, *arguments(chosen)]
        self._template = template
        self._devices = devices
        self._lease: DeviceLease | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._log_start = 0

    @classmethod
    def of(
        cls,
        generator: Generator,
        *,
        model: Path,
        name: str,
        log: Path,
        devices: Callable[[], DeviceLease] | None = None,
        template: str | None = None,
    ) -> Engine:
        """Return the engine of a study's generator."""
        flags, context = generator.engine, generator.context
        return cls(model=model, name=name, context=context, flags=flags, log=log, devices=devices, template=template)

    @property
    def url(self) -> str:
        return f"http://{LOCALHOST}:{self._port}"

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> Engine:
        """Start the server and wait until it answers; do nothing if it runs.

        Raises:
            EngineFailed: it ended before it answered, or took too long; the message holds its last error lines.
        """
        if self.running:
            return self
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self._lease is None and self._devices is not None:
                self._lease = self._devices()
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
        """Stop the server if it runs, and start it.

        Raises:
            EngineFailed: as in `start`.
        """
        self._end()  # keeps its devices
        self.start()

    def _launch(self) -> None:
        with socket.socket() as free:
            free.bind((LOCALHOST, 0))
            self._port = free.getsockname()[1]
        server = ["-P", cpu_server.__file__] if on_cpu() else ["-m", cpu_server.SERVER]
        command = [sys.executable, *server, *self._arguments]
        command += ["--host", LOCALHOST, "--port", str(self._port)]
        if self._template is not None:
            template = self.log.with_suffix(".jinja")
            template.write_text(self._template, encoding="utf-8")
            command += ["--chat-template", str(template)]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._guard = guard.start(
                command,
                stdout=log,
                env={**environment(), **(self._lease.environment if self._lease else {})},
                pass_fds=self._lease.files if self._lease else (),
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while not self._healthy():
            self.check()
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {self.start_seconds:.0f} s")
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
        """Raise EngineFailed with the server's last error lines if it has ended."""
        if not self.running:
            guarded = any(line.startswith(guard.NAME) for line in last_lines(self.log, start=self._log_start))
            raise self._failed("has ended" if guarded else "has ended: it was killed (SIGKILL), as was its guard")

    def _failed(self, what: str) -> EngineFailed:
        lines = last_errors(self.log, self._log_start)
        return EngineFailed(f"engine {self.model} {what}. The last lines of its log:\n{lines}\nFull log: {self.log}")

    def stop(self) -> None:
        """Stop the server and all its processes, and give its devices back; do nothing if it does not run."""
        self._end()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

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


def environment() -> dict[str, str]:
    """Return the server's environment: offline, without usage reports, and with bounded memory on the CPU."""
    variables = {**known_variables(os.environ), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # Without cached bytecode each server process compiles some 5,000 modules, which takes 17 s instead of 6.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    if on_cpu():
        variables = {**CPU_ENVIRONMENT, **variables}
    return variables


def arguments(flags: Flags) -> list[str]:
    """Return vLLM's options for a mapping: `--name value`, `--name` for True, `--no-name` for False."""
    line = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{option}" if value else f"--no-{option}")
        else:
            line += [f"--{option}", str(value)]
    return line


def last_errors(log: Path, start: int = 0, lines: int = 12) -> str:
    """Return the last error lines of a log after byte `start`, or its last lines if there is no error."""
    plain = [_PREFIX.sub("", line) for line in last_lines(log, start=start)]
    errors: list[str] = []
    for place, line in enumerate(plain):
        if _ERROR.match(line):
            errors.append(line)
            for more in plain[place + 1 : place + 3]:  # a validation error explains itself in the lines below
                if not more.startswith("  ") or more.startswith("    "):
                    break
                errors.append(more)
    chosen = list(dict.fromkeys(errors or [line for line in plain if line.strip()]))[-lines:]
    return "\n".join(f"  {line}" for line in chosen)
