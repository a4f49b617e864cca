"""One process of a distributed training. torchrun starts one for each GPU: torchrun --nproc-per-node=2 ranks.py"""

import os
import random

from dreamlake import Session

RANK = int(os.environ.get("RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
STEPS = int(os.environ.get("STEPS", "200"))


def main() -> None:
    # The same session in every process. On several hosts local_path is each host's own, and remote the same for all.
    with Session(
        name="ddp",
        workspace="cluster",
        local_path=os.environ.get("LAKE", ".dreamlake"),
        remote=os.environ.get("REMOTE"),
    ) as session:
        if RANK == 0:
            session.parameters().set(lr=0.1, world_size=WORLD_SIZE)
        mine = session.track(f"rank{RANK}/train")
        done = mine.read(-1)["data"][0]["data"]["step"] + 1 if len(mine) else 0  # as a checkpoint would say it
        session.log(f"rank {RANK} begins", metadata={"step": done})
        for step in range(done, STEPS):
            loss = random.random() / (step + 1)
            mine.append(step=step, loss=loss)
            if RANK == 0 and step % 50 == 49:
                session.track("val").append(step=step, loss=1.1 * loss)
        session.log(f"rank {RANK} ends")


if __name__ == "__main__":
    main()
