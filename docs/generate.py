"""Write the derived parts of README.md: ``make docs``. A test fails when they are stale."""

import re
from pathlib import Path

from compactrec.embeddings import get_method, method_names

__all__ = ["main", "methods_table", "replaced"]

README = Path(__file__).resolve().parents[1] / "README.md"


def methods_table() -> str:
    """One row per registered method, in the registry's order; baselines are marked."""
    rows = ["| method | what | e(x) of an id x | paper |", "|---|---|---|---|"]
    for name in method_names():
        method = get_method(name)
        title = f"{method.title} (baseline)" if method.baseline else method.title
        paper = re.sub(r"arXiv (\S+)", r"[arXiv \1](https://arxiv.org/abs/\1)", method.paper)
        formula = method.formula.replace("|", "\\|")
        rows.append(f"| [`{name}`](docs/methods/{name}.md) | {title} | `{formula}` | {paper} |")
    return "\n".join(rows)


def replaced(text: str, section: str, content: str) -> str:
    """``text`` with the lines between the two markers of a section replaced."""
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the text needs {begin} and {end} once each")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Bring the README up to date."""
    README.write_text(replaced(README.read_text(), "methods", methods_table()))


if __name__ == "__main__":
    main()
