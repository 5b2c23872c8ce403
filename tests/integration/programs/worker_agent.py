"""An agent to be killed: attaches, then starts and stops the instances it is given, for ever.

python worker_agent.py DATA_DIR RUN_DIR BLOBS_DIR INSTANCES_FILE SEED
"""

import asyncio
import random
import sys
from pathlib import Path

from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.core.types.ids import Digest, NodeId
from skerry.core.types.slices import NodeInstance
from skerry.kit.record import decode
from skerry.testing.workerd_node import TEST_SETTINGS


async def main(data: Path, run: Path, blobs: Path, instances: Path, seed: int) -> None:
    async def fetch(digest: Digest) -> bytes:
        return (blobs / digest).read_bytes()

    rng = random.Random(seed)
    wanted = decode(instances.read_bytes(), tuple[NodeInstance, ...])
    runtime = WorkerdRuntime(
        node=NodeId("lhr-1"), address="127.0.0.1", data_dir=data, run_dir=run, fetch_blob=fetch, settings=TEST_SETTINGS
    )
    print("begin", flush=True)
    await runtime.attach()
    print("attached", flush=True)
    while True:
        instance = rng.choice(wanted)
        if rng.random() < 0.5:
            await runtime.start(instance)
        else:
            await runtime.stop(instance.id, grace_ms=100)
        await asyncio.sleep(rng.random() * 0.05)


if __name__ == "__main__":
    data, run, blobs, instances = (Path(argument) for argument in sys.argv[1:5])
    asyncio.run(main(data, run, blobs, instances, int(sys.argv[5])))
