"""Run known values: ``python tests/run_vectors.py FILE_OR_FOLDER…``

A vector file ``some-name.json`` is answered by ``tests/vector_adapters/some_name.py``, whose ``FUNCTIONS`` maps the
name of a function (a case's ``function``, else the file's) to ours: inputs and hyperparameters in, a dict out that
holds at least what the case expects. Exits with 1 on a failure and on anything that nothing answers for.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MONTE_CARLO = "monte_carlo_tolerance"


def differences(found: Any, expected: Any, tolerance: float, where: str = "") -> list[str]:
    """Where two values differ: numbers by more than tolerance * max(1, |expected|), anything else at all.

    Keys that were not expected are no difference.
    """
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return [f"{where or 'value'}: expected an object, found {found!r}"]
        out = []
        for key, value in expected.items():
            here = f"{where}.{key}" if where else str(key)
            out += differences(found[key], value, tolerance, here) if key in found else [f"{here}: missing"]
        return out
    if isinstance(expected, list):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            return [f"{where}: expected {len(expected)} items, found {found!r}"]
        pairs = enumerate(zip(found, expected))
        return [text for at, (a, b) in pairs for text in differences(a, b, tolerance, f"{where}[{at}]")]
    if _number(expected) and _number(found):
        if found == expected or (math.isnan(found) and math.isnan(expected)):
            return []
        close = math.isfinite(found) and abs(found - expected) <= tolerance * max(1.0, abs(expected))
        return [] if close else [f"{where}: expected {expected!r}, found {found!r}"]
    same = found == expected and type(found) is type(expected)
    return [] if same else [f"{where}: expected {expected!r}, found {found!r}"]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def functions_for(path: Path) -> dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] | None:
    """What answers for a vector file, or None."""
    name = f"tests.vector_adapters.{path.stem.replace('-', '_')}"
    if importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name).FUNCTIONS


def run_file(path: Path) -> tuple[int, list[str]]:
    """Run one file: how many cases passed, and one line for each that did not."""
    content = json.loads(path.read_text(encoding="utf-8"))
    cases = content.get("cases") if isinstance(content, dict) else None
    if not cases:
        return 0, [f"{path.name}: holds no cases"]
    functions = functions_for(path)
    if functions is None:
        return 0, [f"{path.name}: nothing answers for {content.get('method', 'this method')} ({len(cases)} cases)"]
    passed, failures = 0, []
    for number, case in enumerate(cases, 1):
        name = case.get("function", content.get("function", ""))
        label = f"{path.name}, case {number} ({name[:60]})"
        function = functions.get(name)
        if function is None:
            failures.append(f"{label}: nothing answers for this function")
            continue
        try:
            found = function(case["inputs"], case.get("hyperparameters") or {})
        except Exception as error:  # a case that breaks is a failure like another, and the next ones still run
            failures.append(f"{label}: {type(error).__name__}: {error}")
            continue
        wrong = differences(found, case["expected"], case.get("tolerance", case.get(MONTE_CARLO, 0.0)))
        failures += [f"{label}: {'; '.join(wrong[:3])}"] if wrong else []
        passed += not wrong
    return passed, failures


def files_in(given: list[str]) -> tuple[list[Path], list[str]]:
    """The vector files under the given paths, and what is wrong with those."""
    files, problems = [], []
    for text in given:
        path = Path(text)
        found = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
        files += found
        if not found:
            problems.append(f"{text}: no vector file there")
    return files, problems


def main(given: list[str]) -> int:
    """Run all, print what failed and ``N passed, N failed``, give the exit code."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    if not given:
        print("Usage: python tests/run_vectors.py FILE_OR_FOLDER…")
        return 1
    files, failures = files_in(given)
    passed = 0
    for path in files:
        try:
            good, bad = run_file(path)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            good, bad = 0, [f"{path.name}: not JSON ({error})"]
        passed += good
        failures += bad
    for line in failures:
        print(line)
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
