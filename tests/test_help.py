"""What examples say of themselves, with no library loaded."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.once
EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
COMMANDS = [path for path in sorted(EXAMPLES.glob("*.py")) if "__main__" in path.read_text()]
# Runs a script, and then says which libraries that has loaded.
RUN = """
import atexit, runpy, sys
sys.path.insert(0, sys.argv[1])
del sys.argv[1]

def loaded():
    found = [sys.modules.get(name) for name in ("keras", "numpy", "pandas", "sklearn")]
    print([m for m in found if m and type(m).__name__ != "StandIn"], file=sys.stderr)

atexit.register(loaded)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_help(path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(EXAMPLES), str(path), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert "StandIn" not in done.stdout
    assert done.stderr.strip().endswith("[]")


def test_an_option_says_what_it_is_by_default():
    command = [sys.executable, str(EXAMPLES / "distillation.py"), "--help"]
    said = " ".join(subprocess.run(command, capture_output=True, text=True).stdout.split())
    assert "number of seeds; by default 3" in said
    assert "--temperature TEMPERATURE temperature of the logits; by default 4.0" in said
    assert "SUPPRESS" not in said
