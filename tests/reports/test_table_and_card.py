from __future__ import annotations

import io
from pathlib import Path

import yaml
from rich.console import Console

from tests.reports.examples import run_result
from truing.reports.model_card import card, write_cards
from truing.reports.tables import as_text, print_result
from truing.safe_text import block, code, plain


def test_table_in_plain_text(tmp_path: Path) -> None:
    text = as_text(run_result(tmp_path))
    assert "\x1b" not in text
    row = next(line for line in text.splitlines() if "helpful" in line)
    for part in ("42.0 % [37.0, 47.0]", "81.0 % [76.0, 86.0]", "+39.0 pp [+33.0, +45.0]", "▲ better"):
        assert part in row
    assert "Note: 2 answers reached the length limit." in text
    assert text.endswith("report.html")


def test_markup_in_text_is_not_obeyed(tmp_path: Path) -> None:
    result = run_result(tmp_path)
    result.state["name"] = "[red]name[/red]"
    result.state["notes"] = ["[bold]loud[/bold] [/nothing]"]
    file = io.StringIO()
    print_result(result, Console(file=file, width=120, force_terminal=True))
    assert "[bold]loud[/bold] [/nothing]" in file.getvalue()
    assert "[red]name[/red]" in file.getvalue()


def test_cards_beside_every_model(tmp_path: Path) -> None:
    result = run_result(tmp_path)
    paths = write_cards(result)
    assert [path.parent.parent.name for path in paths] == ["01-sft", "02-dpo", "03-nudging"]
    text = paths[2].read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "truing"
    assert front["tags"] == ["truing", "alignment", "sft", "dpo", "nudging"]
    assert "base_model" not in front
    assert "| helpful | 42.0 % [37.0, 47.0] | 81.0 % [76.0, 86.0] | +39.0 pp [+33.0, +45.0] | better |" in text
    assert "only truing applies it" in text
    assert "66.0 % [61.0, 71.0]" in paths[0].read_text()
    assert "nudging" not in card(result, 1)


def test_hub_names_reach_the_front_matter_and_files_do_not(tmp_path: Path) -> None:
    result = run_result(tmp_path)
    result.state["recipe"]["model"] = "owner/model"
    result.state["steps"][0]["data"]["source"] = "owner/data"
    result.state["steps"][1]["data"]["source"] = "/home/somebody/pairs.jsonl"
    front = yaml.safe_load(card(result, 2).split("---\n")[1])
    assert front["base_model"] == "owner/model"
    assert front["datasets"] == ["owner/data"]


def test_markdown_in_text_means_nothing() -> None:
    assert plain("<script> **x** [a](b) | c\nd") == "&lt;script\\> \\*\\*x\\*\\* \\[a\\]\\(b\\) \\| c d"
    assert code("a`b``c") == "```a`b``c```"
    assert code("`x`") == "`` `x` ``"
    assert block("```\nx").startswith("````\n")
