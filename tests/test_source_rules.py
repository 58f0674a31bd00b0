"""What no source file does (S3), and what no file of the repository says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TALKS_TO_RAY = ROOT / "recollect" / "runtime" / "ray.py"

PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {
    **dict.fromkeys(("eval", "exec", "builtins.eval", "builtins.exec"), "runs text as code"),
    **dict.fromkeys(("torch.load", "torch.jit.load", "torch.hub.load"), "unpickles"),
    **dict.fromkeys(("os.system", "os.popen"), "runs a shell"),
    **dict.fromkeys(("subprocess.getoutput", "subprocess.getstatusoutput"), "runs a shell"),
    **dict.fromkeys(("concurrent.futures.ProcessPoolExecutor",), "pickles"),
    **dict.fromkeys((f"yaml.{kind}load" for kind in ("", "full_", "unsafe_")), "makes any object"),
    "tempfile.mktemp": "names a file that another may make first",
}
SPAWNERS = {"envs", "doctor"}
"""The packages that start processes: what they start, by which words, is looked at by eye."""
PICKLED_BY = {"multiprocessing", "torch.multiprocessing"}
"""Their queues, pipes, connections, pools, managers and processes pickle what goes through them."""
SHARED = {"shared_memory", "resource_tracker"}  # but not these
ARGUMENTS = {"allow_pickle": "unpickles", "shell": "runs a shell"}
IMPORTERS = {"importlib.import_module", "import_module", "__import__"}


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` of an attribute chain, None if it does not begin with a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return None


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, name in this file, full name) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                yield node.lineno, alias.asname or name, alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, f"{node.module}.{alias.name}"


def pickled(name: str) -> bool:
    """Whether this full name is of what pickles between processes."""
    for package in PICKLED_BY:
        if name.startswith(package + "."):
            return name[len(package) + 1 :].partition(".")[0] not in SHARED
    return False


def forbidden(source: str, spawns: bool = False) -> list[str]:
    """`line: what` of everything in `source` that could run or unpickle what a stranger wrote.

    Args:
        spawns: whether it may start processes.
    """
    tree = ast.parse(source)
    full = {}
    found = []
    for line, name, meaning in imported_names(tree):
        full[name] = meaning
        if meaning.partition(".")[0] in PICKLERS or meaning in CALLS or pickled(meaning):
            found.append(f"{line}: imports {meaning}")
        if meaning.partition(".")[0] == "subprocess" and not spawns:
            found.append(f"{line}: imports subprocess outside {', '.join(sorted(SPAWNERS))}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if pickled(alias.name)]
            found += [f"{node.lineno}: imports {name}" for name in names]
        if isinstance(node, ast.Name | ast.Attribute) and (chain := dotted(node)):
            called = meant(chain, full)
            if called in CALLS:
                found.append(f"{node.lineno}: {called} {CALLS[called]}")
            if pickled(called):
                found.append(f"{node.lineno}: {called} pickles")
        if isinstance(node, ast.Call):
            called = meant(dotted(node.func) or "", full)
            if called in IMPORTERS and node.args:
                asked = node.args[0]
                if isinstance(asked, ast.Constant) and asked.value in PICKLERS:
                    found.append(f"{node.lineno}: imports {asked.value}")
            given = {argument.arg for argument in node.keywords}
            if called in ("np.load", "numpy.load") and "allow_pickle" not in given:
                found.append(f"{node.lineno}: np.load without allow_pickle=False")
            for argument in node.keywords:
                off = isinstance(argument.value, ast.Constant) and argument.value.value is False
                if argument.arg in ARGUMENTS and not off:
                    why = ARGUMENTS[argument.arg]
                    found.append(f"{node.lineno}: {argument.arg}= that is not False {why}")
    return found


def meant(chain: str, full: dict[str, str]) -> str:
    """The full name of `a.b.c`, by what the file's imports say of `a`."""
    head, dot, rest = chain.partition(".")
    return full.get(head, head) + dot + rest


def test_no_source_file_unpickles_or_runs_text() -> None:
    """S3: outside the one file that talks to Ray."""
    found = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in sorted((ROOT / "recollect").rglob("*.py"))
        if path != TALKS_TO_RAY
        for fault in forbidden(
            path.read_text(encoding="utf-8"), path.relative_to(ROOT).parts[1] in SPAWNERS
        )
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n  from cloudpickle import loads",
        "importlib.import_module('dill')",
        "import torch\nx = torch.load('a')",
        "import torch as t\nt.load('a')",
        "from torch import load as read",
        "read = torch.load",
        "np.load('a', allow_pickle=True)",
        "np.load('a', allow_pickle=trusted)",
        "eval('1')",
        "__builtins__ = exec",
        "subprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "from os import system",
        "import subprocess",
        "from subprocess import run",
        "import multiprocessing\nmultiprocessing.Pipe()",
        "import multiprocessing as mp\nmp.Queue()",
        "import multiprocessing as mp\nmp.get_context('spawn').Queue()",
        "from multiprocessing import Manager",
        "import multiprocessing.connection",
        "from multiprocessing.connection import Client",
        "from multiprocessing import connection as wire",
        "from torch.multiprocessing import Queue",
        "import torch\ntorch.multiprocessing.Pool(2)",
        "from concurrent.futures import ProcessPoolExecutor",
        "import numpy as np\nnp.load('a')",
        "from numpy import load\nload('a', mmap_mode='r')",
        "import yaml\nyaml.load(text)",
        "from yaml import unsafe_load",
        "import tempfile\ntempfile.mktemp()",
    ],
)
def test_a_planted_fault_is_found(source: str) -> None:
    """S3."""
    assert forbidden(source)


@pytest.mark.parametrize(
    "source",
    [
        "network.eval()",
        "np.load('a', allow_pickle=False)",
        "torch.load_inline",
        "from safetensors.torch import load\nload(b'')",
        "'''Never torch.load, eval or pickle.'''",
        "subprocess.run(['ls'], shell=False)",
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory('a')",
        "import multiprocessing.shared_memory\nmultiprocessing.shared_memory.SharedMemory('a')",
        "from multiprocessing.resource_tracker import unregister",
        "from concurrent.futures import ThreadPoolExecutor",
        "import numpy as np\nnp.load('a', allow_pickle=False)\nnp.loadtxt('a')",
        "import yaml\nyaml.safe_load(text)",
        "import tempfile\ntempfile.mkstemp()",
        "import ctypes\nctypes.CDLL(None)",
    ],
)
def test_harmless_source_is_let_through(source: str) -> None:
    """S3."""
    assert forbidden(source) == []


def test_only_some_packages_start_processes() -> None:
    """S3."""
    assert forbidden("import subprocess\nsubprocess.run(['ls'])", spawns=True) == []
    assert forbidden("import subprocess\nsubprocess.run('ls', shell=True)", spawns=True)


# A path of one machine, at the start of a word: `https://host/home/` is none.
ONE_MACHINE = re.compile(r"(?<![\w.:~/-])/(?:home|root|work|tmp|Users)/")
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
TEXT = {".py", ".md", ".toml", ".txt", ".cfg", ".json", ".yml", ".yaml", ".sh", ".csv", ".svg"}
NOT_OURS = {"runs", "build", "dist", "node_modules"}


def texts(root: Path) -> Iterator[Path]:
    """The repository's text files, without what a build, a run or a tool left behind."""
    for path in sorted(root.iterdir()):
        hidden = path.name.startswith((".", "__pycache__")) and path.name != ".ci"
        if hidden or path.name in NOT_OURS or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from texts(path)
        elif path.suffix in TEXT or not path.suffix:
            yield path


def said(text: str) -> list[str]:
    """`line: what` of every machine path and every mark of unfinished work in a text."""
    return [
        f"{number}: {match.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in (ONE_MACHINE, UNFINISHED)
        for match in pattern.finditer(line)
    ]


def test_no_file_names_a_machine_or_is_unfinished() -> None:
    files = list(texts(ROOT))
    assert {"pyproject.toml", "Makefile", "run"} <= {path.name for path in files}
    found = [
        f"{path.relative_to(ROOT)}:{words}"
        for path in files
        for words in said(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


def test_planted_words_are_found() -> None:
    assert said("see " + "/".join(["", "home", "someone", "runs"])) == ["1: " + "/home" + "/"]
    assert said("\nx = 1  # TO" + "DO") == ["2: TO" + "DO"]
    assert said("https://a.example/home/page and src/tmp/file and a TO-DO list") == []
