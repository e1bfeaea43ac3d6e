"""``table.json``, a table of methods by columns beside printed figures, as text for the page."""

from collections.abc import Mapping
from typing import Any


def beside_print(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table's parts as text: ``title``, ``run``, ``warnings``, ``columns``, ``rows``, ``notes``.

    Args:
        table: as ``table.json`` has it, measured figures in 0..1, printed ones in percent; what it lacks is left out.
    """
    titles = table.get("titles") or {}
    rows, kind = [], None
    for row in table["rows"]:
        of = row.get("cells") or {}
        texts = [str(row[key]) for key in ("reason", "note") if row.get(key)]
        new_kind = row.get("kind") if row.get("kind") != kind else None
        kind = row.get("kind")
        cells = [_cell(of.get(column) or {}, texts) for column in table["columns"]]
        rows.append({"kind": new_kind, "method": row.get("method"), "texts": texts, "cells": cells})
    return {
        "title": str(table.get("title") or "Beside the printed figures"),
        "run": table.get("run"),
        "warnings": table.get("warnings") or [],
        "columns": [titles.get(column, column) for column in table["columns"]],
        "rows": rows,
        "notes": table.get("notes") or [],
    }


def _cell(cell: Mapping[str, Any], said: list[str]) -> dict[str, str]:
    found = cell.get("measured")
    printed = cell.get("printed")
    reason = str(cell.get("reason") or "")
    return {
        "measured": f"{100 * found['value']:.2f}" if found else "",
        "interval": f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]" if found else "",
        "printed": "" if printed is None else " ± ".join(map(str, printed if isinstance(printed, list) else [printed])),
        "reason": "" if reason in said else reason,
    }
