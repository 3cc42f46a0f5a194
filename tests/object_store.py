"""A real object store on this machine: a server that speaks S3, for as long as a block runs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import s3fs
from moto.server import DomainDispatcherApplication, MotoRequestHandler, ThreadedMotoServer, create_backend_app
from werkzeug.serving import make_server


@dataclass(frozen=True)
class ObjectStore:
    """The server's address, and an empty bucket in it: `s3://<name>`."""

    endpoint: str
    bucket: str
    outage: threading.Event
    """While it is set, the server answers every request with 503."""

    @property
    def files(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(use_listings_cache=False)


class Server(ThreadedMotoServer):
    """Moto, which checks the condition of a write and writes in one step, as real stores do, and can be away."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.outage = threading.Event()
        self._writing = threading.Lock()

    def _server_entry(self) -> None:
        application = DomainDispatcherApplication(create_backend_app)

        def answer(environment: dict[str, Any], start: Any) -> Any:
            if self.outage.is_set():
                start("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            is_conditional = environment.keys() & {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"}
            with self._writing if is_conditional and environment["REQUEST_METHOD"] == "PUT" else nullcontext():
                return application(environment, start)

        self._server = make_server(self._ip_address, self._port, answer, True, request_handler=MotoRequestHandler)
        self._server_ready_event.set()
        self._server.serve_forever()


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Runs the server, and tells this process and those that it starts where it is."""
    server = Server(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            environment.setenv("AWS_ACCESS_KEY_ID", "anybody")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "anything")
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem.clear_instance_cache()  # what an earlier server's address stands in
            store = ObjectStore(f"http://127.0.0.1:{port}", f"s3://test-{uuid.uuid4().hex}", server.outage)
            store.files.mkdir(store.bucket)
            yield store
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
