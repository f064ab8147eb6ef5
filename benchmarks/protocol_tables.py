"""The protocols as Markdown, for the documentation: all of it is derived from their files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from compactrec.benchmarks.protocol_file import (
    FigureCell,
    ProtocolFile,
    load_protocol,
    protocol_names,
)
from compactrec.benchmarks.published import digits

__all__ = ["protocol_markdown", "protocols_markdown"]


def protocols_markdown() -> str:
    """An overview, then a section per protocol."""
    protocols = [load_protocol(name) for name in protocol_names()]
    rows = ["| protocol | what | models | figures |", "|---|---|---:|---:|"]
    for protocol in protocols:
        figures = sum(len(group.cells) for group in protocol.figures)
        name = f"[`{protocol.name}`](#{protocol.name})"
        rows.append(f"| {name} | {protocol.title} | {len(protocol.models)} | {figures} |")
    return "\n".join([*rows, *(line for p in protocols for line in _section(p))])


def protocol_markdown(name: str) -> str:
    """The section of one protocol; ``ValueError`` names those that there are."""
    return "\n".join(_section(load_protocol(name)))


def _section(protocol: ProtocolFile) -> Iterator[str]:
    data = protocol.data
    yield from ("", f"### {protocol.name}", "", f"{protocol.title}. Facts from:", "")
    yield from (f"- {source}" for source in protocol.sources)
    rows = ", ".join(f"{name} {number:,}" for name, number in data.rows.items())
    yield from ("", "| fixed | |", "|---|---|", f"| files | {data.files} |")
    yield f"| prepared with | schema `{data.table}`, `--protocol {data.protocol}` |"
    yield f"| rows | {rows or 'not known'} |"
    yield f"| ids in all | {'not known' if data.num_ids is None else f'{data.num_ids:,}'} |"
    yield f"| training | {_settings(protocol.train)} |"
    for model, fields in protocol.models.items():
        yield f"| `{model}` | {_settings(fields)} |"
    if protocol.methods:
        yield f"| methods | {', '.join(f'`{m}`' for m in protocol.methods)}, with the baselines |"
    for name, search in protocol.searches.items():
        for model, fields in search.models.items():
            yield f"| search `{name}` of `{model}` | {_settings({**search.options, **fields})} |"
    if protocol.budgets:
        yield f"| budgets | {', '.join(protocol.budgets)} |"
    yield f"| judged by | test {protocol.metric} |"
    yield ""
    yield from (f"- Otherwise than published: {text}." for text in protocol.caveats)
    yield from _figures(protocol)


def _settings(fields: Mapping[str, object]) -> str:
    texts = (f"`{key} = {json.dumps(value)}`" for key, value in fields.items())
    return ", ".join(texts) or "the model's own defaults"


def _figures(protocol: ProtocolFile) -> Iterator[str]:
    if not protocol.figures:
        yield from ("", "There is no published figure that could be verified.")
    for group in protocol.figures:
        yield from ("", f"**{group.source}** ({group.provenance}). {group.caveat}", "")
        yield from ("| model | method | budget | figure |", "|---|---|---|---|")
        yield from (_cell(cell) for cell in group.cells)


def _cell(cell: FigureCell) -> str:
    numbers = ", ".join(f"{cell.split} {name} {digits(v)}" for name, v in cell.metrics.items())
    note = f". {cell.note}" if cell.note else ""
    return f"| `{cell.model}` | `{cell.method}` | {cell.budget or '-'} | {numbers}{note} |"
