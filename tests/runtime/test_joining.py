"""S1: a cluster is asked whether it lets us in, and what it says is told at once in one line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recollect.runtime import joining
from recollect.runtime.joining import admitted, find_token, host_and_port, knock
from recollect.types import ConfigError

grpc = pytest.importorskip("grpc")

TOKEN = "aa" * 16


@pytest.fixture(autouse=True)
def no_token_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@contextmanager
def head(token: str | None, version: str = "2.60.0") -> Iterator[str]:
    """What answers as Ray's head does; its address."""

    def check_alive(request: bytes, context: Any) -> bytes:
        given = dict(context.invocation_metadata()).get("authorization")
        if token is not None and given != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing")
        text = version.encode()
        return b"\n\x00\x12" + bytes([len(text)]) + text + b" \x01"

    service, _, name = joining.CALL.removeprefix("/").partition("/")
    handlers = {name: grpc.unary_unary_rpc_method_handler(check_alive)}
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


def test_the_right_token_of_the_right_version_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with head(TOKEN) as address:
        assert admitted(address, "2.60.0") == TOKEN


@pytest.mark.parametrize(
    ("theirs", "ours", "version", "words"),
    [
        (None, TOKEN, "2.60.0", "lets in anybody.*RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN.*ray start"),
        (None, None, "2.60.0", "lets in anybody"),
        (TOKEN, None, "2.60.0", "wants a token and none is set here: set RAY_AUTH_TOKEN or write"),
        (TOKEN, "bb", "2.60.0", "has another token than this process: set RAY_AUTH_TOKEN"),
        (TOKEN, TOKEN, "2.59.1", r"runs Ray 2\.59\.1 and here is Ray 2\.60\.0: install the same"),
    ],
)
def test_everything_else_is_refused_and_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, theirs: str | None, ours: str | None, version: str, words: str
) -> None:
    if ours:
        monkeypatch.setenv("RAY_AUTH_TOKEN", ours)
    with head(theirs, version) as address, pytest.raises(ConfigError, match=words) as caught:
        admitted(address, "2.60.0")
    assert "\n" not in str(caught.value)
    assert address in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_cluster_without_a_token_is_never_told_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    told = []
    inner = knock

    def knocked(address: str, token: str | None, seconds: float = 1.0) -> joining.Answer:
        told.append(token)
        return inner(address, token, seconds)

    monkeypatch.setattr(joining, "knock", knocked)
    with head(None) as address, pytest.raises(ConfigError):
        admitted(address, "2.60.0")
    assert told == [None]


def test_nobody_there_and_somebody_who_says_nothing_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"no Ray cluster answers at .* \(nothing heard in"):
            admitted(address, "2.60.0")
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at .*refused.*ray start --head"):
        admitted(address, "2.60.0")


@pytest.mark.parametrize(
    "address",
    ["auto", "local", "", ":1", "host", "host:", "host:x", "ray://host:1", "a:0", "a:65536"],
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is not HOST:PORT: give the one"):
        host_and_port(address)


def test_addresses_are_taken_apart() -> None:
    assert host_and_port("10.0.0.1:6379") == ("10.0.0.1", 6379)
    assert host_and_port("[::1]:6379") == ("[::1]", 6379)


def test_a_token_is_looked_for_where_ray_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home\n")
    assert find_token() == "of the home"
    (tmp_path / "file").write_text("of the file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    assert find_token() == "of the file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", " of the variable ")
    assert find_token() == "of the variable"


def test_a_token_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "nowhere")
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH=nowhere cannot be read"):
        find_token()
