"""Write docs/reference/options.md from the declarations in medlens.config."""

from __future__ import annotations

from pathlib import Path

from medlens.cli import default_text
from medlens.config import AUDIT_OPTIONS, FIELDS, SERVE_FIELDS, UI_FIELDS, Fields, flag_name

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "options.md"


def options_page() -> str:
    """The page: a table for each group of options."""
    lines = [
        "# Options of `medlens train`",
        "",
        "Written by `make docs` from the declarations in `src/medlens/config.py`. In Python and in",
        "TOML the names have no dashes: `--image-size 96` is `image_size=96`.",
        "`medlens audit` takes those marked with *.",
    ]
    lines += _tables(FIELDS, "##")
    lines += ["", "`--config FILE` reads options from a TOML file; those typed win.", ""]
    lines += ["## Options of `medlens serve`", *_tables(SERVE_FIELDS, "###"), ""]
    lines += ["## Options of `medlens ui`", *_tables(UI_FIELDS, "###"), ""]
    return "\n".join(lines)


def _tables(fields: Fields, heading: str) -> list[str]:
    """A heading and a table for each group."""
    lines = []
    for group in dict.fromkeys(field.metadata["group"] for field in fields.values()):
        lines += ["", f"{heading} {group.capitalize()}", ""]
        lines += ["| option | allowed | default | what |", "| --- | --- | --- | --- |"]
        for name, field in fields.items():
            if field.metadata["group"] == group:
                typed = "DATA" if name == "data" else f"`{flag_name(name)}`"
                mark = "*" if fields is FIELDS and name in AUDIT_OPTIONS else ""
                cells = (
                    field.metadata["kind"].expected,
                    default_text(field),
                    field.metadata["help"],
                )
                escaped = [cell.replace("|", "\\|") for cell in cells]
                lines.append(f"| {typed}{mark} | " + " | ".join(escaped) + " |")
    return lines


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(options_page(), encoding="utf-8")
