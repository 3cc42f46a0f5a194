"""Building blocks of the tests of rephrasing: a tiny chat model, a corpus on disk, and a local server.

The model has random weights, but the engine that serves it is real. The local server plays an endpoint that misbehaves
on purpose, which a real engine cannot be made to do.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import plain, sha256_text
from finephrase_dagster.artifacts.key import DATASET, ItemKey
from finephrase_dagster.artifacts.recipe import dataset_recipe, resolve_day
from finephrase_dagster.artifacts.sampling import resolve_sampling
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.rephrase.policy import RetryPolicy
from finephrase_dagster.study.generator import Generator, Sampling
from finephrase_dagster.study.prompt import Prompt
from finephrase_dagster.study.turns import parse_turns, positions

TEXTS = list(pydoc_data.topics.topics.values())
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def write_tokenizer(folder: Path, vocabulary: int = 600) -> Path:
    """Write a byte-level BPE tokenizer with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS[:20], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder


def write_model(folder: Path, vocabulary: int = 600) -> Path:
    """Write a random Llama of about 0.15 M parameters with that tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tokenizer(folder, vocabulary)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_corpus(folder: Path, shards: Sequence[Sequence[tuple[str | None, str | bytes | None]]]) -> Path:
    """Write shards of (id, text); a text given as bytes need not be UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(shards):
        raw = [text.encode() if isinstance(text, str) else text for _, text in rows]
        texts = pa.Array.from_buffers(pa.string(), len(raw), pa.array(raw, pa.binary()).buffers())
        hashes = [sha256_text(text) if isinstance(text, str) else None for _, text in rows]
        table = pa.table(
            [pa.array([name for name, _ in rows], pa.string()), texts, pa.array(hashes, pa.string())],
            names=["id", "text", "sha256"],
        )
        pq.write_table(table, folder / f"shard-{number:05d}.parquet")
    return folder


def documents(count: int, *, words: int = 60, start: int = 0) -> list[tuple[str, str]]:
    """Return pieces of real text with the ids `doc-<n>`."""
    text = " ".join(TEXTS).split()
    return [
        (f"doc-{n}", f"Document {n}. " + " ".join(text[n * words % 50_000 :][:words]))
        for n in range(start, start + count)
    ]


GRAMMAR = 'root ::= "It says yes." | "It says no."'


def prompt(name: str, template: str = "[[DOCUMENT]]\n\nSay it in other words.", system: str | None = None) -> Prompt:
    return Prompt(
        name=name,
        family="other",
        format="text",
        origin="a test",
        document=positions(parse_turns(template))[0],
        check="prose",
        version=1,
        description="a test's",
        template=template,
        system=system,
        grammar=GRAMMAR,
    )


PROMPTS = {
    "plain": prompt("plain"),
    "before": prompt("before", "Ask three questions about this text:\n\n[[DOCUMENT]]", system="You teach."),
}


def generator(**changes: Any) -> Generator:
    fields = {"model": "./model", "context": 512, "max_tokens": 24, "sampling": Sampling(seed=7)}
    # Not every processor multiplies bfloat16 itself.
    fields |= {"engine": {"dtype": "float32"}, **changes}
    return Generator(**fields)


def recipe(name: str, spec: Generator | None = None) -> dict[str, Any]:
    """Return the recipe of a dataset of one of `PROMPTS`, by a generator of a test."""
    spec = spec or generator()
    return dataset_recipe(
        rows="rows of a test",
        prompt=PROMPTS[name],
        model="tiny",
        engine={},
        sampling=resolve_sampling(spec.sampling, {}),
        context=spec.context,
        max_tokens=spec.max_tokens,
        keep_raw=spec.keep_raw,
        guided=spec.guided,
        day=resolve_day(None, spec.date, endpoints=False),
    )


def datasets(
    root: Path, names: Sequence[str] = ("plain", "before"), spec: Generator | None = None
) -> dict[str, Artifact]:
    return {
        name: Artifact(
            key=ItemKey(kind=DATASET, generator="tiny", source="text", prompt=name),
            recipe=recipe(name, spec),
            root=root,
        )
        for name in names
    }


def rephrase_corpus(
    corpus: Path,
    wanted: Mapping[str, Artifact],
    *,
    model: Path,
    engine: Callable[[], EngineLike],
    concurrency: int = 8,
    chunk_rows: int = 4,
    retry_failed: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Rephrase a corpus on disk, as a study's run does."""
    job = RephraseJob(
        files=tuple(str(shard) for shard in sorted(corpus.glob("shard-*.parquet"))),
        prompts={name: PROMPTS[name] for name in wanted},
        targets={
            name: Target(folder=str(artifact.folder), recipe=plain(artifact.recipe))
            for name, artifact in wanted.items()
        },
        model="tiny",
        tokenizer=str(model),
        concurrency=concurrency,
        chunk_rows=chunk_rows,
        retry_failed=retry_failed,
    )
    return execute(job, engines=lambda: nullcontext([engine()]), log=log)


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    """Return all rows of a dataset's files, in the order of its manifest."""
    return [
        row
        for file in artifact.manifest()["files"]
        for row in pq.read_table(artifact.folder / file["path"]).to_pylist()
    ]


def rejected_of(artifact: Artifact) -> list[dict[str, Any]]:
    return pq.read_table(artifact.folder / "__meta__" / "rejected.parquet").to_pylist()


SHORT_PAUSES: dict[str, Any] = {
    "attempt_starts": (0, 0.02, 0.04, 0.06, 0.08),
    "throttled_pauses": (0.02, 0.05),
    "probe_pauses": (0, 0.02, 0.04),
    "watch_interval": 0.02,
    "outage": 1.0,
    "outage_at_start": 1.0,
    "death": 0.1,
    "first_pause": 0.02,
    "longest_pause": 0.1,
}


def shorten_pauses(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Make the client retry, and give up, within fractions of a second."""
    for name, value in {**SHORT_PAUSES, **changes}.items():
        monkeypatch.setitem(RetryPolicy.__init__.__kwdefaults__, name, value)


Answer = tuple[int, Mapping[str, Any]]


def completion(text: str = "Some words.") -> Answer:
    return 200, {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    }


def failure(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "type": "test"}}


class LocalServer:
    """A server of chat completions; `answer` decides what it answers, `requests` holds what it received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.model = "tiny"
        self.context = 512
        self.restartable = False
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.alive: Callable[[], bool] = lambda: True
        self.redirect: tuple[int, str] | None = None  # status and location of all answers to GET
        self.answer: Callable[[dict[str, Any]], Answer | None] = lambda request: completion()
        self.retry_after: str | None = None  # of all answers that are errors
        self.count: Callable[[str], int] | None = None  # tokens of messages, if it has /tokenize
        self.counted: list[str] = []

    def check(self) -> None:
        """Do nothing: only its answers show whether it is alive."""

    def restart(self) -> None:
        """Do nothing: it is an endpoint, which a run does not start."""

    def stop(self) -> None:
        """Do nothing: it is an endpoint, which a run does not stop."""

    def asked(self, words: str) -> list[dict[str, Any]]:
        """Return the requests whose message contains these words."""
        return [request for request in self.requests if words in request["messages"][-1]["content"]]


@contextmanager
def local_server() -> Iterator[LocalServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.headers.append(self.headers)
            answer: Answer | None
            if self.path == "/tokenize":
                text = "".join(message["content"] for message in request["messages"])
                server.counted.append(text)
                answer = (200, {"count": server.count(text)}) if server.count else (404, {"detail": "Not Found"})
            else:
                server.requests.append(request)
                answer = server.answer(request)
            if answer is None:  # a dropped connection
                self.close_connection = True
                return
            body = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            if server.retry_after and answer[0] >= 400:
                self.send_header("Retry-After", server.retry_after)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            server.headers.append(self.headers)
            if server.redirect is not None:
                self.send_response(server.redirect[0])
                self.send_header("Location", server.redirect[1])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = json.dumps({"data": [{"id": server.model, "max_model_len": server.context}]}).encode()
            self.send_response(200 if server.alive() else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *message: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Do nothing: a client that was killed closes its connection."""

    http = Server(("127.0.0.1", 0), Handler)
    server = LocalServer(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


@contextmanager
def raw_server(reply: bytes, *, end: bytes = b'"}]}') -> Iterator[str]:
    """Serve connections: read a request to its end, send these bytes in pieces, close."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # a client that has read enough closes its connection
                received = b""
                while end not in received:
                    received += connection.recv(4096)
                for start in range(0, len(reply), 50):
                    connection.sendall(reply[start : start + 50])

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
