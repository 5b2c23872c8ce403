"""Pack OCI images from what this machine or its distribution has; no registry, no Docker.

    python examples/images/pack.py python OUT.tar             a small Python web service (app.py beside this file)
    python examples/images/pack.py apt:PACKAGE[,MORE] OUT.tar a stock server from Debian: its packages, with their libraries

Run it with Skerry's Python (.venv/bin/python).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from skerry.testing.images import Built, Entry, File, Folder, Link, build, from_machine

HERE = Path(__file__).resolve().parent
USERS = b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUPS = b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"
# What installation scripts, which are not run, would have done; and logs to where they are read.
EXTRAS: dict[str, dict[str, Entry]] = {
    "nginx": {
        "var/www/html/index.html": File(content=b"<h1>It runs</h1>\n"),
        "etc/nginx/sites-enabled/default": Link(target="../sites-available/default"),
        "var/log/nginx/access.log": Link(target="/dev/stdout"),
        "var/log/nginx/error.log": Link(target="/dev/stderr"),
    },
}
COMMANDS = {
    "lighttpd": ("lighttpd", "-D", "-f", "/etc/lighttpd/lighttpd.conf"),
    "nginx": ("nginx", "-g", "daemon off;"),
    "redis": ("redis-server", "--protected-mode", "no", "--dir", "/tmp"),
}


def base() -> dict[str, Entry]:
    """What every program expects to find."""
    folders = ("tmp", "var/log", "var/lib", "var/cache", "run", "root", "etc")
    tree: dict[str, Entry] = {name: Folder(mode=0o1777 if name == "tmp" else 0o755) for name in folders}
    return tree | {"etc/passwd": File(content=USERS), "etc/group": File(content=GROUPS), "etc/hosts": File()}


def python_service() -> Built:
    """The machine's Python with the libraries that it loads, and below it the service: two layers, so that versions share one."""
    program = shutil.which("python3", path="/usr/bin") or sys.exit("no /usr/bin/python3 (sudo apt-get install python3)")
    real = str(Path(program).resolve())
    library = f"/usr/lib/{Path(real).name}"
    modules = [str(path) for path in Path(library, "lib-dynload").glob("*.so")]
    system = base() | from_machine([real, *modules], extra=[library]) | {"usr/bin/python3": Link(target=Path(real).name)}
    service: dict[str, Entry] = {"srv/app.py": File(content=(HERE / "app.py").read_bytes())}
    command = ("/usr/bin/python3", "/srv/app.py")
    return build([system, service], name="python-service", command=command, env=("PORT=8080",), ports=(8080,), user="nobody")


def from_packages(names: list[str]) -> Built:
    """Debian packages with all that they depend on, unpacked; their installation scripts are not run."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        wanted = dependencies(names)
        asked("apt-get", "download", "-q", *wanted, place=scratch)
        for package in sorted(Path(scratch).glob("*.deb")):
            asked("dpkg", "-x", str(package), str(root), place=scratch)
        system = base() | tree_of(root)
    short = names[0].partition("-")[0]
    system |= EXTRAS.get(short, {})
    command = COMMANDS.get(short) or (program_of(names[0], system),)
    return build([system], name=names[0], command=command, env=("PATH=/usr/sbin:/usr/bin:/sbin:/bin",), ports=(80,))


def program_of(package: str, system: dict[str, Entry]) -> str:
    """The program with the package's name, or with the first part of it."""
    for name in (package, package.partition("-")[0]):
        if any(f"{place}/{name}" in system for place in ("usr/sbin", "usr/bin", "sbin", "bin")):
            return name
    sys.exit(f"{package} has no program of its name: write its command into COMMANDS in {Path(__file__).name}")


def asked(*command: str, place: str | None = None) -> str:
    """What a tool of the distribution prints; ends with what it said if it fails."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]} {command[1]}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout


def dependencies(names: list[str]) -> list[str]:
    """All packages that these need, as apt resolves them for an empty machine."""
    simulated = ["apt-get", "install", "-s", "-q", "--no-install-recommends", "-o", "Dir::State::status=/dev/null", *names]
    return sorted({line.split()[1].split(":")[0] for line in asked(*simulated).splitlines() if line.startswith("Inst ")})


def tree_of(root: Path) -> dict[str, Entry]:
    tree: dict[str, Entry] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            tree[name] = Link(target=str(path.readlink()))
        elif path.is_dir():
            tree[name] = Folder(mode=path.stat().st_mode & 0o7777)
        elif path.is_file() and not name.startswith(("usr/share/doc", "usr/share/man", "usr/share/locale")):
            tree[name] = File(content=path.read_bytes(), mode=path.stat().st_mode & 0o7777)
    return tree


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or not (arguments[0] == "python" or arguments[0].startswith("apt:")):
        print(__doc__, file=sys.stderr)
        return 2
    what, out = arguments
    built = python_service() if what == "python" else from_packages(what.removeprefix("apt:").split(","))
    built.save(Path(out))
    print(f"{out}: {Path(out).stat().st_size >> 20} MiB, {len(built.image.layers)} layers, manifest {built.image.manifest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
