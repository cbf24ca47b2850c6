"""Writes the catalogue pages of the documentation: one page a method, measure and reward, made from the classes themselves."""

from __future__ import annotations

import dataclasses
import inspect
import re

import mkdocs_gen_files

from truing.catalogue import Entry, entries
from truing.papers import papers

PLURAL = {"method": "methods", "measure": "measures", "reward": "rewards", "builder": "builders"}


def cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def prose(docstring: str) -> str:
    """The docstring without its ``Args:`` section; the other sections become headed paragraphs, examples become code."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r"(?ms)^Args:\n(?: {4}.*\n?|\n(?= {4}))*", "", text)
    text = re.sub(r"(?m)^(\w[\w ]*):$", r"**\1**\n", text)
    text = re.sub(r"::\n", ":\n", text)
    return text.replace("``", "`")


def default_of(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "required"


def settings_table(cls: type) -> str:
    if not dataclasses.is_dataclass(cls):
        return ""
    texts = cls.describe()
    rows = [
        f"| `{field.name}` | `{cell(field.type)}` | {cell(default_of(field))} | {cell(texts[field.name])} |"
        for field in dataclasses.fields(cls)
    ]
    return "\n## Settings\n\n| setting | type | default | what it is |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"


def usage(entry: Entry) -> str:
    if entry.kind == "method":
        records = " --records FILE" if entry.records else ""
        reads = f", {entry.records[0]}s" if entry.records else ""
        return (
            f"```python\nimport truing as tr\n\naligned = tr.{entry.export}(...).align(model{reads})\n```\n\n"
            f"```console\ntruing align {entry.name.replace('_', '-')} --model sandbox/base{records} --out out/{entry.name}\n```\n"
        )
    if entry.kind == "builder":
        return f"```python\nimport truing as tr\n\nmade = tr.{entry.export}(...).build(source, model)\n```\n"
    if entry.kind == "measure":
        return (
            f"```python\nimport truing as tr\n\nprint(tr.measure(\"{entry.name}\", model, against=start))\n```\n\n"
            f"```console\ntruing measure {entry.name.replace('_', '-')} --model sandbox/base\n```\n"
        )
    return f"```python\nimport truing as tr\n\nscores = tr.{entry.export}(...)(prompts, responses)\n```\n"


def page(entry: Entry) -> str:
    cls = entry.load()
    facts = []
    if entry.nature:
        facts.append(f"nature: {entry.nature}")
    if entry.records:
        facts.append("reads: " + ", ".join(entry.records) + " records")
    if getattr(cls, "modifier", None):
        facts.append(f"adds: a {cls.modifier} modifier")
    for paper in papers():
        if paper.number in entry.papers:
            facts.append(f"paper {paper.number}: [{paper.title}]({paper.url})" if paper.url else f"paper {paper.number}: {paper.title}")
    return f"# {entry.export}\n\n{' · '.join(facts)}\n\n{prose(cls.__doc__)}\n\n{usage(entry)}{settings_table(cls)}"


for kind in ("method", "builder", "measure", "reward"):
    index = [f"# {PLURAL[kind].capitalize()}", "", "| name | what it does | papers |", "| --- | --- | --- |"]
    for entry in entries(kind):
        where = f"catalogue/{kind}-{entry.name}.md"
        with mkdocs_gen_files.open(where, "w") as file:
            file.write(page(entry))
        numbers = ", ".join(str(number) for number in entry.papers)
        index.append(f"| [`{entry.name}`]({kind}-{entry.name}.md) | {cell(entry.summary)} | {numbers} |")
    with mkdocs_gen_files.open(f"catalogue/{PLURAL[kind]}.md", "w") as file:
        file.write("\n".join(index) + "\n")

rows = ["# Papers", "", "`truing papers` shows the same table.", "", "| no. | paper | becomes | state | works when |", "| --- | --- | --- | --- | --- |"]
for paper in papers():
    title = f"[{cell(paper.title)}]({paper.url})" if paper.url else cell(paper.title)
    rows.append(f"| {paper.number:02d} | {title} | {cell(paper.becomes)} | {paper.state} | {cell(paper.works_when)} |")
with mkdocs_gen_files.open("catalogue/papers.md", "w") as file:
    file.write("\n".join(rows) + "\n")
