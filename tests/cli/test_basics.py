from __future__ import annotations

import json
import subprocess
import sys


def truing(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'truing'; from truing.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def test_methods_as_json_lists_dpo() -> None:
    done = truing("methods", "--json")
    assert done.returncode == 0
    assert "dpo" in [row["name"] for row in json.loads(done.stdout)]


def test_a_mistake_is_one_message_and_exit_code_two() -> None:
    done = truing("run", "quickstrat")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "quickstart" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom truing.cli import main\nsys.argv = ['truing', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets'} & set(sys.modules)\nsys.exit(1 if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_papers_are_all_listed() -> None:
    assert len(json.loads(truing("papers", "--json").stdout)) == 59


def test_a_bad_row_is_reported_with_its_escapes_shown(tmp_path) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps({**good, "chosen": 5}) + "\n")
    done = truing("records", "check", str(file))
    assert done.returncode == 2
    assert "1 bad rows" in done.stdout


def test_escapes_are_shown_and_not_obeyed() -> None:
    from truing.cli.text import printable

    assert printable("\x1b[2Jhi\n") == "\\x1b[2Jhi\n"


def test_an_interrupt_says_how_to_go_on() -> None:
    code = (
        "import os, signal, sys\nimport truing.runs\nfrom truing.cli import main\n"
        "truing.runs.recipe_names = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['truing', 'recipes']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "goes on" in done.stderr
