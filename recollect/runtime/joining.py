"""Asking a cluster whether it lets us in, before Ray would: Ray takes 20 s to say no.

Ray's head answers gRPC calls, and with a token only those that carry it. One call that any head of
2.50 or later knows, `CheckAlive`, is made twice: without the token, which has to be refused, and
with it, which has to be answered, with Ray's version. It takes some 10 ms.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from recollect.types import ConfigError

CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
SECONDS = 1.0
"""For each of the two calls."""
VERSION = re.compile(rb"\x12[\x03-\x20](\d+\.\d+[\w.+-]*)")  # field 2 of the reply, a string
HOW = (
    "on every host set RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN (or ~/.ray/auth_token), "
    "then run `ray start`"
)


class Answer(NamedTuple):
    """What a head said: let in, with its Ray's version; refused; or silent, and why."""

    kind: Literal["let in", "refused", "silent"]
    text: str


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of HOST:PORT.

    Raises:
        ConfigError: it is something else, such as Ray's `auto` or `ray://HOST:PORT`.
    """
    host, colon, port = address.rpartition(":")
    number = int(port) if port.isdecimal() else 0
    if not colon or not host or "/" in host or not 0 < number < 65536:
        raise ConfigError(
            f"address {address!r} is not HOST:PORT: give the one that `ray start --head` printed, "
            "such as 10.0.0.1:6379"
        )
    return host, number


def find_token() -> str | None:
    """The token Ray would use: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        ConfigError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeError) as error:
        if named:
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH={named} cannot be read: {error}") from error
        return None


def admitted(address: str, version: str) -> str:
    """The token with which the cluster there lets us in, if it has one and is of our version.

    Args:
        address: HOST:PORT of its head.
        version: of the Ray installed here.
    Raises:
        ConfigError: it has none, or another one, or nobody answers, or it is of another version.
    """
    host_and_port(address)
    stranger = knock(address, None)
    if stranger.kind == "silent":
        raise ConfigError(
            f"no Ray cluster answers at {address} ({stranger.text}): start its head with "
            "`ray start --head` and give the address that it prints"
        )
    if stranger.kind == "let in":
        raise ConfigError(f"the cluster at {address} lets in anybody, without a token: {HOW}")
    token = find_token()
    if token is None:
        raise ConfigError(
            f"the cluster at {address} wants a token and none is set here: set RAY_AUTH_TOKEN or "
            "write ~/.ray/auth_token, as on its hosts"
        )
    answer = knock(address, token)
    if answer.kind == "refused":
        raise ConfigError(
            f"the cluster at {address} has another token than this process: set RAY_AUTH_TOKEN "
            "(or ~/.ray/auth_token) to the one with which its hosts ran `ray start`"
        )
    if answer.kind == "silent":
        raise ConfigError(f"the cluster at {address} stopped answering ({answer.text})")
    if answer.text != version:
        raise ConfigError(
            f"the cluster at {address} runs Ray {answer.text} and here is Ray {version}: "
            "install the same version on every host"
        )
    return token


def knock(address: str, token: str | None, seconds: float = SECONDS) -> Answer:
    """Call a cluster's head once, with a token or without."""
    import grpc

    # Past any proxy, as Ray does, and on a connection of this call's own.
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            reply = channel.unary_unary(CALL)(b"", timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return Answer("refused", error.details() or "")
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return Answer("silent", f"nothing heard in {seconds:g} s")
            why = (error.details() or error.code().name).rpartition(": ")[2]
            return Answer("silent", " ".join(why.split()).rstrip("]"))
    found = VERSION.search(reply)
    return Answer("let in", found[1].decode("ascii") if found else "of an unknown version")
