"""What the tree keeps to, beyond what the linters see."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_LINES_MAX = 500
LOCKS = {"requirements.txt", "requirements-dev.txt", "uv.txt", "package-lock.json"}
# In halves, so that this file does not name them.
REGISTRY_HOSTS = (
    "registry." + "npmjs",
    "pypi.org" + "/simple",
    "files." + "pythonhosted",
    "deb." + "debian.org",
    "crates" + ".io/api",
)
HOMES = re.compile(r"(?<![\w.<{])/(?:home|Users)/[a-z]\w*/|(?<![\w.])/root/\w")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
WEB = re.compile(r"[a-z]+:")


def tracked(pattern: str = "*") -> list[Path]:
    """Files of the tree, committed or new, less what is ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


EVERYWHERE = ("/", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr", "/var")  # say nothing of a machine


def offences(files: list[Path], bad: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in files
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if bad.search(line)
    ]


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    above = str(ROOT.parent)
    here = re.escape(f"{ROOT}/")
    if above.count("/") == 1 and above not in EVERYWHERE:
        here += f"|{re.escape(above)}/"
    assert offences(tracked(), re.compile(f"{HOMES.pattern}|(?<![\\w.])(?:{here})")) == []


def test_no_host_of_a_registry_is_in_the_tree() -> None:
    assert offences(tracked(), re.compile("|".join(map(re.escape, REGISTRY_HOSTS)))) == []


def test_lock_files_name_versions_and_hashes_but_no_address() -> None:
    locks = [path for path in tracked() if path.name in LOCKS]
    assert {path.name for path in locks} == LOCKS
    assert offences(locks, re.compile(r'"resolved"|^\s*--(?:extra-)?(?:index|find)|@ https?:')) == []
    for path in (path for path in locks if path.suffix == ".txt"):
        pins = re.split(r"\n(?=\S)", path.read_text().strip())
        assert [pin for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []


def test_lock_files_know_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "requirements.txt": project["project"]["dependencies"],
        "requirements-dev.txt": [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]],
    }
    for name, dependencies in wanted.items():
        locked = set(re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(), re.MULTILINE))
        names = {re.split(r"[\s\[<>=!~;]", dependency)[0].lower().replace("_", "-") for dependency in dependencies}
        assert names - locked == set(), f"{name}: make lock"


def test_modules_stay_short_enough_to_be_read() -> None:
    long = {str(path.relative_to(ROOT)): len(text_of(path).splitlines()) for path in tracked("*.py")}
    assert {name: lines for name, lines in long.items() if lines > MODULE_LINES_MAX} == {}


def test_no_except_star() -> None:
    """Python before 3.11.4, which Debian 12 has, wraps what is raised in an `except*` block in a group: it cannot be caught."""
    stars = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in tracked("*.py")
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.TryStar)
    ]
    assert stars == []


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = CODE.sub("", page.read_text())
    broken = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if WEB.match(link):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The names that a Markdown viewer gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
