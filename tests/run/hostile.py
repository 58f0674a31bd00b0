"""C3: checkpoints whose hashes are right and whose contents are not."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run import tensors
from recollect.run.manifest import MANIFEST, META, PARAMETERS, STATE, TREE
from tests.run.checkpoints import replace, resign

SEGMENT = "segment-0.safetensors"
FILES = (PARAMETERS, META, STATE, TREE, SEGMENT, MANIFEST)
MARKER = "the-pickle-ran"
Spoil = Callable[[Path], Path]


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def put(name: str, data: Callable[[Path], bytes] | bytes) -> Spoil:
    """Other bytes in a file, signed."""

    def spoil(path: Path) -> Path:
        content = data if isinstance(data, bytes) else data(path)
        if name == MANIFEST:
            return resign(path, content)
        replace(path / name, content)
        return resign(path)

    return spoil


def bomb(path: Path) -> Bomb:
    return Bomb(path.parent / MARKER)


def torch_file(path: Path, **kwargs: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({"w": torch.zeros(3), "b": bomb(path)}, file, **kwargs)
    return file.getvalue()


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(50 << 20))
    return file.getvalue()


def st(header: Any, body: int = 4, length: int | None = None) -> bytes:
    """A safetensors file of a header that is made up."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(body)


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def listed(**changes: Any) -> Spoil:
    return lambda path: resign(path, **changes)


def in_files(name: str, found: Any = None) -> Spoil:
    """One more file, or another entry of one, in the manifest."""

    def spoil(path: Path) -> Path:
        described = json.loads((path / MANIFEST).read_bytes())["files"]
        described[name] = {"bytes": 4, "sha256": "0" * 64} if found is None else found
        return resign(path, files=described)

    return spoil


def instead(name: str, make: Callable[[Path], object]) -> Spoil:
    """Something that is no file in a file's place; the manifest tells of the file it was."""

    def spoil(path: Path) -> Path:
        (path / name).rename(path.parent / f"{path.name}-{name}")
        make(path / name)
        return path

    return spoil


def link_to_what_it_was(file: Path) -> None:
    file.symlink_to(file.parent.parent / f"{file.parent.name}-{file.name}")


def listen(file: Path) -> None:
    here = os.getcwd()
    os.chdir(file.parent)  # a socket's path may only be short
    socket.socket(socket.AF_UNIX).bind(file.name)
    os.chdir(here)


def passwd(path: Path) -> Path:
    """With size and hash of what it leads to."""
    (path / PARAMETERS).unlink()
    (path / PARAMETERS).symlink_to("/etc/passwd")
    data = Path("/etc/passwd").read_bytes()
    found = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return in_files(PARAMETERS, found)(path)


def folder_link(path: Path) -> Path:
    elsewhere = path.rename(path.with_name(f"elsewhere-{path.name}"))
    path.symlink_to(elsewhere)
    return path


def index(column: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Spoil:
    """Another column in the index of buffers."""

    def spoil(path: Path) -> Path:
        data = np.frombuffer(bytearray((path / STATE).read_bytes()), np.uint8)
        arrays = tensors.parse(data, path)
        name = f"/replay~11/{column}"
        changed = change(arrays[name].copy())
        arrays[name] = arrays[name][:0] if changed is None else changed
        if changed is None:
            del arrays[name]
        replace(path / STATE, b"".join(bytes(p) for p in tensors.encode(arrays, "")))
        return resign(path)

    return spoil


def at(position: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(column: np.ndarray) -> np.ndarray:
        column[position] = value
        return column

    return change


def tree(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(path: Path) -> Path:
        found = json.loads((path / TREE).read_bytes())
        changed = change(found)
        return put(TREE, json.dumps(found if changed is None else changed).encode())(path)

    return spoil


def many_segments(path: Path) -> Path:
    for number in range(1, 70):
        os.link(path / SEGMENT, path / f"segment-{number}.safetensors")
    return resign(path)


def text_of(path: Path, old: str, new: str) -> bytes:
    """The manifest with a part written otherwise."""
    text = (path / MANIFEST).read_text()
    assert old in text
    return text.replace(old, new, 1).encode()


def numbered(key: str, value: str) -> Spoil:
    def spoil(path: Path) -> Path:
        found = json.loads((path / MANIFEST).read_bytes())[key]
        return resign(path, text_of(path, f'"{key}": {found}', f'"{key}": {value}'))

    return spoil


Content = bytes | Callable[[Path], bytes]
HEADERS: dict[str, Content] = {
    "length-2^60": st(b"{", length=2**60),
    "length-2^64": st(b"{", length=2**64 - 1),
    "length-beyond-the-file": st(b"{}", 0, length=1000),
    "seven-bytes": b"1234567",
    "empty": b"",
    "header-of-100-MB": lambda _: st(b'{"a":' + b" " * (100 << 20) + b"{}}"),
    "shape-2^63": st({"a": entry(shape=[2**63])}),
    "shape-2^64": st({"a": entry(shape=[2**64])}),
    "shape-wraps-to-4-bytes": st({"a": entry(shape=[2**62 + 1])}),
    "shape-product-wraps": st({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}, 0),
    "shape-0-hides-2^62": st({"a": entry(shape=[0, 2**59, 2**59], offsets=[0, 0])}, 0),
    "shape-negative": st({"a": entry(shape=[-1])}),
    "shape-two-negatives": st({"a": entry(shape=[-1, -1])}),
    "shape-float": st({"a": entry(shape=[1.0])}),
    "shape-true": st({"a": entry(shape=[True])}),
    "shape-nan": st({"a": entry(shape=[float("nan")])}),
    "shape-text": st({"a": entry(shape="1")}),
    "shape-above-its-bytes": st({"a": entry(shape=[2])}),
    "shape-below-its-bytes": st({"a": entry("U8", [3])}),
    "shape-with-no-bytes": st({"a": entry(shape=[2**40], offsets=[0, 0])}, 0),
    "dims-33": st({"a": entry(shape=[1] * 33)}),
    "offsets-wild": st({"a": entry(offsets=[2**62, 2**62 + 4])}),
    "offsets-negative": st({"a": entry(offsets=[-4, 0])}),
    "offsets-reversed": st({"a": entry(offsets=[4, 0])}),
    "offsets-three": st({"a": entry(offsets=[0, 4, 4])}),
    "offsets-beyond": st({"a": entry(shape=[100], offsets=[0, 400])}),
    "offsets-overlap": st({"a": entry(), "b": entry()}),
    "offsets-half-overlap": st({"a": entry(shape=[2], offsets=[0, 8]), "b": entry(offsets=[4, 8])}),
    "offsets-gap": st({"a": entry(offsets=[4, 8])}, 8),
    "bytes-left-over": st({"a": entry()}, 400),
    "dtype-BF16": st({"a": entry("BF16", [2])}),
    "dtype-F8": st({"a": entry("F8_E4M3", [4])}),
    "dtype-complex": st({"a": entry("C64", [1], [0, 8])}, 8),
    "dtype-object": st({"a": entry("O", [1], [0, 8])}, 8),
    "dtype-number": st({"a": entry(7)}),
    "dtype-list": st({"a": entry(["F32"])}),
    "entry-more": st({"a": {**entry(), "code": "x"}}),
    "entry-null": st({"a": None}, 0),
    "no-entries-but-bytes": st({}, 9),
    "header-list": st([]),
    "metadata": st({"__metadata__": {"a": "b"}, "a": entry()}),
    "name-empty": st({"": entry()}),
    "name-long": st({"a" * 5000: entry()}),
    "name-half-character": st(b'{"\\ud800": ' + json.dumps(entry()).encode() + b"}"),
    "name-twice": st(b'{"a": ' + json.dumps(entry()).encode() + b', "a": null}'),
    "tensors-25000": st({f"{i}": entry(shape=[0], offsets=[0, 0]) for i in range(25_000)}, 0),
}

JSONS: dict[str, Content] = {
    "nested-lists": b"[" * 100_000,
    "nested-lists-closed": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested-objects": b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
    "nested-200": b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}",
    "keys-10^6": lambda _: json.dumps(dict.fromkeys(map(str, range(10**6)))).encode(),
    "keys-120000": lambda _: json.dumps(dict.fromkeys(map(str, range(120_000)))).encode(),
    "objects-60000": b'{"a": [' + b'{"":0},' * 60_000 + b"1]}",
    "values-10^6": lambda _: b'{"a": [' + b"{}," * 10**6 + b"1]}",
    "wide-characters": '{"a": "\U0001f600'.encode() + b"x" * 4_000_000 + b'"}',
    "digits-10^5": b'{"env_steps": ' + b"9" * 100_000 + b"}",
    "digits-4000": b'{"env_steps": ' + b"9" * 4000 + b"}",
    "float-10^6-digits": b'{"env_steps": 1.' + b"1" * 10**6 + b"}",
    "exponent": b'{"env_steps": 1e999999999}',
    "nan-for-a-number": b'{"env_steps": NaN}',
    "text-for-a-number": b'{"env_steps": "10"}',
    "half-character": b'{"env_steps": 10, "a": "\\ud800"}',
    "half-character-key": b'{"env_steps": 10, "\\udfff": 1}',
    "key-twice": b'{"env_steps": 10, "env_steps": 10}',
    "not-utf-8": b'{"env_steps": 10, "a": "\xff"}',
    "utf-16": '{"env_steps": 10}'.encode("utf-16"),
    "a-list": b"[]",
    "null": b"null",
    "empty": b"",
    "spaces-100-MB": lambda _: b" " * (100 << 20) + b"{}",
    "text-unended": b'{"' + b'\\"' * 1_900_000,
}

LEAVES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "path-missing": lambda t: t.pop("rng"),
    "path-more": lambda t: t.update(more={"$": "array"}),
    "path-escapes": lambda t: {"../../etc": t},
    "path-collides": lambda t: t.update({"replay/0/tree": t["replay/0"].pop("tree")}),
    "kind-unknown": lambda t: t.update(rng={"$": "pickle"}),
    "kind-list": lambda t: t.update(rng={"$": ["array"]}),
    "kind-with-more": lambda t: t["replay/0"]["tree"].update(code="x"),
    "key-dollar": lambda t: t.update({"$x": 1}),
    "buffers-as-array": lambda t: t.update({"replay/1": {"$": "array"}}),
    "array-as-buffers": lambda t: t["replay/0"].update(tree={"$": "buffers"}),
    "array-as-scalar": lambda t: t["replay/0"].update(tree={"$": "scalar"}),
    "root-is-an-array": lambda t: {"$": "array"},
}

COLUMNS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray | None]]] = {
    "segment-that-is-not-there": ("segment", at(0, 5)),
    "segment-negative": ("segment", at(0, -1)),
    "segment-2^62": ("segment", at(0, 2**62)),
    "segment-the-limit": ("segment", at(0, 2**31)),
    "offset-negative": ("offset", at(0, -1)),
    "offset-beyond": ("offset", at(0, 10_000)),
    "offset-2^62": ("offset", at(0, 2**62)),
    "offset-overlaps": ("offset", at(1, 3)),
    "offset-all-one": ("offset", np.zeros_like),
    "bytes-negative": ("bytes", at(0, -1)),
    "bytes-2^62": ("bytes", at(0, 2**62)),
    "bytes-wrap": ("bytes", at(0, 2**63 - 1)),
    "numbers-fall": ("numbers", lambda c: c[::-1].copy()),
    "numbers-twice": ("numbers", at(1, 0)),
    "numbers-float": ("numbers", lambda c: c.astype(np.float64)),
    "numbers-int32": ("numbers", lambda c: c.astype(np.int32)),
    "numbers-2-d": ("numbers", lambda c: c[None].copy()),
    "numbers-short": ("numbers", lambda c: c[:-1].copy()),
    "numbers-missing": ("numbers", lambda c: None),
}

TWO = {"bytes": entry("U8", [4]), "x": entry("U8", [0], [4, 4])}
NAMES = {
    "parent": "../meta.json",
    "absolute": "/etc/passwd",
    "folder": "a/b",
    "dot": ".",
    "dots": "..",
    "empty": "",
    "NUL": "meta.json\0",
    "long": "a" * 10_000,
    "full-width": "\uff4deta.json",
    "right-to-left": "\u202enosj.atem",
    "combined": "meta\u0301.json",
    "other-digits": "segment-\u0661.safetensors",
    "leading-zero": "segment-00.safetensors",
    "newline": "segment-0.safetensors\n",
    "segment-2^31": "segment-2147483648.safetensors",
    "pickle": "data.pkl",
}


def corpus() -> Iterator[tuple[str, Spoil]]:
    """Everything, by name."""
    zipped, gzipped = zip_bomb(), gzip.compress(bytes(50 << 20), 1)
    for file in FILES:
        for protocol in range(6):
            yield (
                f"pickle-{protocol}-{file}",
                put(file, lambda path, p=protocol: pickle.dumps(bomb(path), p)),
            )
        yield f"torch-{file}", put(file, torch_file)
        legacy = partial(torch_file, _use_new_zipfile_serialization=False)
        yield f"torch-old-{file}", put(file, legacy)
        yield f"zip-bomb-{file}", put(file, zipped)
        yield f"gzip-bomb-{file}", put(file, gzipped)
        yield f"link-{file}", instead(file, link_to_what_it_was)
        yield f"link-to-zeros-{file}", instead(file, lambda f: f.symlink_to("/dev/zero"))
        yield f"link-to-itself-{file}", instead(file, lambda f: f.symlink_to(f.name))
        yield f"pipe-{file}", instead(file, os.mkfifo)
        yield f"socket-{file}", instead(file, listen)
        yield f"folder-{file}", instead(file, os.mkdir)
        yield f"missing-{file}", instead(file, lambda f: None)
    for file in (PARAMETERS, STATE, SEGMENT):
        for name, data in HEADERS.items():
            if not name.endswith("100-MB") or file == PARAMETERS:
                yield f"{name}-{file}", put(file, data)
    for file in (META, TREE, MANIFEST):
        for name, data in JSONS.items():
            if not name.endswith("100-MB") or file == META:
                yield f"{name}-{file}", put(file, data)
    for name, change in LEAVES.items():
        yield f"tree-{name}", tree(change)
    for name, (column, edit) in COLUMNS.items():
        yield f"index-{name}", index(column, edit)
    for name, file in NAMES.items():
        yield f"name-{name}", in_files(file)
    yield "link-to-passwd", passwd
    yield "link-folder", folder_link
    yield "segments-70", many_segments
    yield "segment-of-two-arrays", put(SEGMENT, st(TWO))
    yield "segment-of-floats", put(SEGMENT, st({"bytes": entry()}))
    yield "segment-too-short", put(SEGMENT, st({"bytes": entry("U8", [4])}))
    for name, found in {
        "bytes-negative": {"bytes": -1, "sha256": "0" * 64},
        "bytes-true": {"bytes": True, "sha256": "0" * 64},
        "bytes-2^63": {"bytes": 2**63, "sha256": "0" * 64},
        "bytes-10^6-million": {"bytes": 10**12, "sha256": "0" * 64},
        "hash-short": {"bytes": 1, "sha256": "0"},
        "hash-other": {"bytes": 1, "sha256": "z" * 64},
        "hash-list": {"bytes": 1, "sha256": []},
        "list": [],
    }.items():
        yield f"entry-{name}", in_files(PARAMETERS, found)
    for key in ("number", "env_steps", "format"):
        for value in ("-1", "1e3", "NaN", "true", '"1"', "[]", "null", "9" * 900, "2.0"):
            yield f"{key}-{value[:9]}", numbered(key, value)
    yield "files-list", listed(files=[])
    yield "files-none", listed(files={})
    yield "name-other", listed(name="best")
    yield "name-list", listed(name=["last"])
