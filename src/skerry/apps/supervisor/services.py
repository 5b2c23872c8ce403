"""The example's services: a container in one city, a microVM in another, where this machine can run them.

    python -m skerry.apps.supervisor.services DATA_DIR SITE…

A process of its own, started when the platform serves: packing an image and asking engines for their versions take a second
or two, and nobody who came for a Worker waits for them. It prints what a person at the screen is told, a line each.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from skerry.adapters import tools
from skerry.core.types.program import IsolationClass

SERVICES: tuple[tuple[str, IsolationClass], ...] = (("hello-container", "container"), ("hello-microvm", "microvm"))
PORT, MEMORY_MIB = 8080, 128
PACK_S_MAX = 60.0


def why_not(data: Path) -> dict[IsolationClass, str]:
    """Isolation classes that this machine lacks, with the reason and how to get them."""
    from skerry.apps.node_programs import find_engines

    with tempfile.TemporaryDirectory(dir=data) as scratch:
        return dict(find_engines(Path(scratch, "base"), Path(scratch, "run"))[1])


def _nobody_looks(name: str, done: int, total: int) -> None:
    pass


def pack(into: Path) -> str:
    """Make the image with the machine's own Python; why that does not work, or nothing."""
    script = tools.tree() / "examples/images/pack.py"
    if not script.is_file():
        return "this installation has no examples/images"
    argv = [sys.executable, str(script), "python", str(into)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PACK_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        return f"its image was not packed within {PACK_S_MAX:.0f} s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["its image cannot be packed"])[-1]


def deploy(data: Path, sites: list[str]) -> None:
    """What is not there yet, one service a city. Raises `ClientError`."""
    from skerry.adapters.imagesources.opening import own_architecture
    from skerry.apps.client import Client, find_target
    from skerry.apps.programs.sending import send_image

    with Client(find_target(data)) as client:
        accounts = client.accounts()
        account = next((item for item in accounts if item.name == client.target.default_account), accounts[0]).account
        there = {item.app for item in client.apps() if item.account == account}
        missing = why_not(data)
        for name, isolation in SERVICES:
            if isolation in missing:
                print(f"{name} is not deployed: {missing[isolation]}")
        wanted = [(name, isolation) for name, isolation in SERVICES if name not in there and isolation not in missing]
        if not wanted:
            return
        with tempfile.TemporaryDirectory(dir=data) as scratch:
            archive = Path(scratch, "python-service.tar")
            if problem := pack(archive):
                print(f"{', '.join(name for name, _ in wanted)} not deployed: {problem}")
                return
            image = send_image(client, account, str(archive), architecture=own_architecture(), progress=_nobody_looks)
        for (name, isolation), site in zip(wanted, sites[1:] + sites[:1], strict=False):
            body = {"image": image.manifest, "image_name": "python-service", "isolation": isolation, "port": PORT}
            scale = {"allow": [site], "min_per_site": 1}
            client.put_program(account, name, {**body, "memory_mib": MEMORY_MIB, "scale": scale})
            print(f"{name}: a service in a {isolation}, on its way to {site}")


def main(arguments: list[str]) -> int:
    import os

    from skerry.apps.client import ClientError

    if os.geteuid() != 0:
        print("The example's services (a container, a microVM) are left out: they need root")
        return 0
    try:
        deploy(Path(arguments[0]), arguments[1:])
    except ClientError as error:
        print(f"The example's services are not deployed: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
