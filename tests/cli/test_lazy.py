from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LAZY = """
import sys
from recollect.cli import lazy
lazy.install()
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LAZY + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_statements_alone_load_nothing() -> None:
    assert run("import torch\nimport torch as t\nprint('torch._C' in sys.modules)") == "False"


@pytest.mark.parametrize(
    ("first_use", "value"),
    [
        ("import torch; print(torch.zeros(3).sum().item())", "0.0"),
        ("import torch.nn; print(torch.nn.Linear(2, 1).in_features)", "2"),
        ("from torch import nn; print(nn.Linear(2, 1).in_features)", "2"),
        ("from torch.optim import Adam; print(Adam.__name__)", "Adam"),
        ("import torch; print(hasattr(torch, 'no such thing'))", "False"),
    ],
)
def test_the_first_use_loads_torch(first_use: str, value: str) -> None:
    program = f"{first_use}\nimport torch, types\nprint('torch._C' in sys.modules, type(torch))"
    assert run(program).splitlines() == [value, "True <class 'module'>"]


def test_a_submodule_as_the_first_use_is_executed_once(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("print('package')\nimport package.sub\n")
    (tmp_path / "package" / "sub.py").write_text("print('sub')\n")
    (tmp_path / "package" / "other.py").write_text("print('other')\n")
    program = f"""
sys.path.insert(0, {str(tmp_path)!r})
lazy.install("package")
import package.sub
import package.other
print(package.sub is sys.modules["package.sub"], package.sub.__spec__.has_location)
"""
    assert run(program).splitlines() == ["package", "sub", "other", "True True"]


def test_torch_that_is_imported_already_is_left_alone() -> None:
    import torch

    from recollect.cli import lazy

    lazy.install()
    assert sys.modules["torch"] is torch
    with lazy.hidden():
        assert sys.modules["torch"] is torch


def test_a_package_that_is_not_installed_fails_at_its_import() -> None:
    from recollect.cli import lazy

    lazy.install("no_such_package")
    assert "no_such_package" not in sys.modules


def test_hidden_torch_comes_back_and_is_still_not_loaded() -> None:
    program = """
with lazy.hidden():
    print("torch" in sys.modules)
import torch
print("torch._C" in sys.modules, torch.zeros(2).shape[0])
"""
    assert run(program).splitlines() == ["False", "False 2"]


def test_a_load_that_fails_is_not_taken_for_a_loaded_one(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("x = 1\nraise OSError('no room')\n")
    program = f"""
sys.path.insert(0, {str(tmp_path)!r})
lazy.install("broken")
import broken
for _ in range(2):
    try:
        import broken
        broken.x
    except OSError as error:
        print(error, "broken" in sys.modules)
"""
    assert run(program).splitlines() == ["no room False"] * 2
