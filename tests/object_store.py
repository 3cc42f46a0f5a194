"""A real object store on this machine: a server that speaks S3, for as long as a block runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import s3fs
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class ObjectStore:
    """The server's address, and an empty bucket in it: `s3://<name>`."""

    endpoint: str
    bucket: str

    @property
    def files(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(use_listings_cache=False)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Runs the server, and tells this process and those that it starts where it is."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            environment.setenv("AWS_ACCESS_KEY_ID", "anybody")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "anything")
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem.clear_instance_cache()  # what an earlier server's address stands in
            store = ObjectStore(f"http://127.0.0.1:{port}", f"s3://test-{uuid.uuid4().hex}")
            store.files.mkdir(store.bucket)
            yield store
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
