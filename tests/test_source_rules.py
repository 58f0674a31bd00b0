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
}
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


def forbidden(source: str) -> list[str]:
    """`line: what` of everything in `source` that could run or unpickle what a stranger wrote."""
    tree = ast.parse(source)
    full = {}
    found = []
    for line, name, meaning in imported_names(tree):
        full[name] = meaning
        if meaning.partition(".")[0] in PICKLERS or meaning in CALLS:
            found.append(f"{line}: imports {meaning}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (chain := dotted(node)):
            head, dot, rest = chain.partition(".")
            called = full.get(head, head) + dot + rest
            if called in CALLS:
                found.append(f"{node.lineno}: {called} {CALLS[called]}")
        if isinstance(node, ast.Call):
            if (dotted(node.func) or "") in IMPORTERS and node.args:
                asked = node.args[0]
                if isinstance(asked, ast.Constant) and asked.value in PICKLERS:
                    found.append(f"{node.lineno}: imports {asked.value}")
            for argument in node.keywords:
                off = isinstance(argument.value, ast.Constant) and argument.value.value is False
                if argument.arg in ARGUMENTS and not off:
                    why = ARGUMENTS[argument.arg]
                    found.append(f"{node.lineno}: {argument.arg}= that is not False {why}")
    return found


def test_no_source_file_unpickles_or_runs_text() -> None:
    """S3: outside the one file that talks to Ray."""
    found = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in sorted((ROOT / "recollect").rglob("*.py"))
        if path != TALKS_TO_RAY
        for fault in forbidden(path.read_text(encoding="utf-8"))
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
    ],
)
def test_harmless_source_is_let_through(source: str) -> None:
    """S3."""
    assert forbidden(source) == []


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
