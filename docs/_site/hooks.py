"""What MkDocs does not do by itself when it builds the site of ``docs/``.

* The menu is made from the index, ``docs/README.md``, so that no second list of pages has to be kept.
* Each room of the package gets a page of its docstrings.
* Files outside ``docs/`` that a page links to become pages: the same link works in the repository and in the site.
* The search works without a server: its index is also written as a script.
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
OUTSIDE = "repository"
"""Folder of the site for pages of the repository's other files."""
API = "api"
"""Folder of the site for pages of docstrings."""
ROOMS = (
    "attacks", "purification", "defense", "models", "data", "evaluation", "runs", "reports", "planning", "studies",
    "verification", "training", "config",
)  # fmt: skip
"""Packages whose modules are documented. ``cli`` is not imported by users."""
MODULES = ("schedule", "noise", "errors")
"""Documented modules without a room."""
PROJECT = {"README": "README.md", "Contributing": "CONTRIBUTING.md", "Changelog": "CHANGELOG.md"}
LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".py": "python", ".toml": "toml", ".json": "json", ".cff": "yaml"}
LINK = re.compile(r"(\]\()([^)\s#:]+)(?=[)#])")
"""A relative link's target in Markdown."""


def on_config(config: MkDocsConfig) -> None:
    """Makes the menu: the index's sections, then the docstrings, then the project's own pages."""
    menu: dict[str, list[dict[str, str]]] = {}
    section = ""
    for line in (ROOT / DOCS / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"\*\*(.+?)\*\*", line):
            section = heading[1]
        elif entry := re.match(r"\| \[(.+?)\]\((.+?)\) \|", line):
            menu.setdefault(section, []).append({entry[1]: entry[2]})
    menu["Python"] = [{title: f"{API}/{name}.md"} for title, name in _api_pages().items()]
    menu["Project"] = [{title: f"{OUTSIDE}/{file}"} for title, file in PROJECT.items()]
    config.nav = [{"Index": "README.md"}, *({title: pages} for title, pages in menu.items())]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages that are not files of ``docs/``."""
    for title, name in _api_pages().items():
        files.append(File.generated(config, f"{API}/{name}.md", content=_api_page(title, name)))
    files.append(File.generated(config, "code.css", content=HtmlFormatter().get_style_defs(".highlight")))
    texts = {f"{DOCS}/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    queue = [*PROJECT.values(), *(target for page, text in texts.items() for target in _outside(page, text))]
    done = set()
    while queue:
        path = queue.pop()
        if path in done:
            continue
        done.add(path)
        text = _page_of(path)
        queue += _outside(path, text)
        file = File.generated(config, _source_name(path), content=text)
        file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links across the border of ``docs/`` into links within the site."""
    here = page.file.src_uri
    path = _repository_path(here)

    def changed(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
        if not (ROOT / target).exists() or target.startswith(".."):
            return match[0]
        return match[1] + posixpath.relpath(_source_name(target), posixpath.dirname(here) or ".")

    return LINK.sub(changed, markdown)


@event_priority(-100)  # after the search plugin
def on_post_build(config: MkDocsConfig) -> None:
    """Writes the search index as a script: a page opened as a file may load a script but no JSON."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"const searchIndex = {index};\n", encoding="utf-8")
    (folder / "worker.js").unlink()


def _api_pages() -> dict[str, str]:
    """Pages of docstrings: file names by title."""
    return {"hetpure": "hetpure", **{f"hetpure.{name}": name for name in (*ROOMS, *MODULES)}}


def _api_page(title: str, name: str) -> str:
    """A page of docstrings.

    The first page has the package's exported names; a room's page has each module's public classes and functions.
    """
    package = ROOT / "hetpure"
    if name == "hetpure":
        lines = [f"# {title}", "", _docstring(package / "__init__.py"), ""]
        names = sorted(
            _exported(package / "__init__.py"), key=lambda name: (name[0].isupper(), name)
        )  # functions first
        return "\n".join([*lines, *(f"::: hetpure.{exported}\n" for exported in names)])
    if name in MODULES:
        return f"# {title}\n\n::: hetpure.{name}\n    options: {{show_root_heading: false}}\n"
    lines = [f"# {title}", "", _docstring(package / name / "__init__.py"), ""]
    if exported := _exported(package / name / "__init__.py"):
        links = ", ".join(f"[`{name}`][{module}.{name}]" for name, module in exported.items())
        lines += [f"This package exports {links}.", ""]
    for file in sorted((package / name).rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if not file.name.startswith("_"):
            lines += [f"## {module.removeprefix(f'hetpure.{name}.')}", "", f"::: {module}"]
            lines += ["    options: {show_root_heading: false, heading_level: 3}", ""]
    return "\n".join(lines)


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _exported(file: Path) -> dict[str, str]:
    """The names that a package imports for its users, with their modules; it is not imported itself."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    modules = {name.name: str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
    for node in nodes:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {name: modules[name] for name in ast.literal_eval(node.value) if name in modules}
    return {}


def _outside(page: str, text: str) -> list[str]:
    """Files outside ``docs/`` that a page links to, as paths in the repository."""
    found = []
    for match in LINK.finditer(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2]))
        if not target.startswith((f"{DOCS}/", "..")) and (ROOT / target).exists():
            found.append(target)
    return found


def _source_name(path: str) -> str:
    """The name of a repository file among the site's sources; ``_repository_path`` is the inverse."""
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    return f"{OUTSIDE}/{path}" if path.endswith(".md") else f"{OUTSIDE}/{path}.md"


def _repository_path(name: str) -> str:
    if not name.startswith(f"{OUTSIDE}/"):
        return f"{DOCS}/{name}"
    path = name.removeprefix(f"{OUTSIDE}/")
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def _page_of(path: str) -> str:
    """A repository file as a page: Markdown as it is, a folder as a list, any other file as code."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(child.name for child in file.iterdir() if not child.name.startswith((".", "_")))
        base = posixpath.basename(path)
        return "\n".join([f"# {path}/", "", *(f"* [{name}]({base}/{name})" for name in names)])
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"# {path}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
