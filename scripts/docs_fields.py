"""For the API pages: the fields of a record become a table, with the source's comments or help texts."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe


class Fields(griffe.Extension):
    """Adds to a class's docstring a table of its fields: type, default and meaning."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """`x: int = setting(1, "help")` means its help, `x: int  # what it is` its comment."""
        rows = [
            f"| `{name}` | {' | '.join(row)} |" for name, field in cls.attributes.items() if (row := describe(field))
        ]
        if rows and cls.docstring is not None:
            cls.docstring.value += "\n\n" + "\n".join(["| field | type | meaning |", "| --- | --- | --- |", *rows])


def describe(field: griffe.Attribute) -> tuple[str, str] | None:
    """Type and meaning of a field; None for other attributes."""
    if "property" in field.labels or field.annotation is None or field.lineno is None or field.name.startswith("_"):
        return None
    lines = field.parent.module.lines_collection[field.filepath][field.lineno - 1 : field.endlineno]
    value = ast.parse("\n".join(lines).strip()).body[0].value  # type: ignore[attr-defined]
    meaning = ""
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "setting":
        meaning = f"{ast.literal_eval(value.args[1])} (`{ast.unparse(value.args[0])}`)"
    elif comment := re.search(r"  # (?!noqa|type:)(.+)$", lines[-1]):
        meaning = re.sub(r"(\[[^\]]*\])", r"`\1`", comment[1])
    kind = str(field.annotation).replace("|", "\\|")
    return f"`{kind}`", meaning.replace("|", "\\|")
