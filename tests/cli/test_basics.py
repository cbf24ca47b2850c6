from __future__ import annotations

import json
import subprocess
import sys


def truing(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'truing'; from truing.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def test_methods_as_json_lists_dpo() -> None:
    done = truing("methods", "--json")
    assert done.returncode == 0 and "dpo" in [row["name"] for row in json.loads(done.stdout)]


def test_a_mistake_is_one_message_and_exit_code_two() -> None:
    done = truing("run", "quickstrat")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "quickstart" in done.stderr and "Traceback" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom truing.cli import main\nsys.argv = ['truing', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets'} & set(sys.modules)\nsys.exit(1 if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
