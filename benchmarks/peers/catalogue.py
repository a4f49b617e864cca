"""The peers: what each is called, what is installed for it, the import that is timed, and how many points it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SIZES = {
    "append": 100_000,
    "tail": 100_000,
    "metrics": 100_000,
    "states": 50_000,
    "batches": 1_000_000,
    "once": 1_000_000,
    "frame": 1_000_000,
    "bytes": 100_000,
    "read": 1_000_000,
}
"""Points a workload; `read` is for all that read."""
LEAST = {"metrics": 400, "batches": 2_000, "once": 2_000, "read": 2_000}
"""What a small scale leaves of them; 50 of the others."""


@dataclass(frozen=True)
class Peer:
    """One library to run.

    Parameters
    ----------
    name
        As the tables show it, and as `--only` takes it.
    driver
        The file in drivers/ that runs its workloads, without `.py`.
    requirements
        What pip installs; the first is the library itself. Empty for the tree that this file is in.
    statement
        The import whose time is measured.
    kind
        Which targets hold for it.
    sizes
        Where it gets fewer points than `SIZES`, because it is slow. Rates can be compared, totals cannot.
    """

    name: str
    driver: str
    requirements: tuple[str, ...]
    statement: str
    kind: Literal["own", "tracker", "recorder", "table"]
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def distribution(self) -> str:
        """The name under which its version is looked up."""
        return self.requirements[0].partition("=")[0] if self.requirements else "dreamlake"

    def points(self, size: str, scale: float) -> int:
        """How many points a workload gets at this scale."""
        full = self.sizes.get(size, SIZES[size])
        return full if scale == 1 else max(LEAST.get(size, 50), int(full * scale))


OURS = Peer("dreamlake", "dreamlake_", (), "from dreamlake import Session", "own")

PEERS = (
    Peer("dreamlake-0.32", "dreamlake_0_32", ("dreamlake==0.32.0", "polars==2.1.0"), "import dreamlake", "own"),
    Peer(
        "dreamlake-0.2",
        "dreamlake_0_2",
        ("dreamlake==0.2.1", "polars==2.1.0"),
        "import dreamlake",
        "own",
        {"append": 5_000, "tail": 5_000, "metrics": 4_000, "states": 5_000, "bytes": 5_000}
        | {"batches": 200_000, "read": 100_000},
    ),
    Peer(
        "wandb",
        "wandb_",
        ("wandb==0.31.0",),
        "import wandb",
        "tracker",
        {"append": 20_000, "tail": 20_000, "metrics": 40_000, "states": 10_000, "bytes": 20_000},
    ),
    Peer(
        "mlflow",
        "mlflow_",
        ("mlflow==3.17.2",),
        "import mlflow",
        "tracker",
        {"append": 5_000, "tail": 10_000, "metrics": 10_000, "batches": 50_000, "bytes": 10_000, "read": 100_000},
    ),
    Peer(
        "aim",
        "aim_",
        ("aim==3.29.1", "pandas"),
        "from aim import Run",
        "tracker",
        {"append": 10_000, "tail": 10_000, "metrics": 10_000, "bytes": 20_000, "read": 50_000},
    ),
    Peer(
        "trackio",
        "trackio_",
        ("trackio==0.43.0",),
        "import trackio",
        "tracker",
        {"append": 50_000, "tail": 50_000, "states": 20_000, "batches": 100_000, "bytes": 50_000, "read": 200_000},
    ),
    Peer(
        "tensorboardX",
        "tensorboardx_",
        ("tensorboardX==2.6.5", "tensorboard==2.21.0"),
        "from tensorboardX import SummaryWriter",
        "tracker",
        {"append": 20_000, "tail": 20_000, "metrics": 20_000, "bytes": 20_000, "read": 100_000},
    ),
    Peer("mcap", "mcap_", ("mcap==1.6.0", "msgspec==0.22.0", "polars==2.1.0"), "import mcap.writer", "recorder"),
    Peer(
        "rerun",
        "rerun_",
        ("rerun-sdk==0.41.0", "datafusion==54.*"),
        "import rerun",
        "recorder",
        {"append": 50_000, "tail": 50_000, "metrics": 50_000, "states": 20_000, "bytes": 50_000},
    ),
    Peer(
        "lance",
        "lance_",
        ("pylance==14.0.2",),
        "import lance",
        "table",
        {"append": 500, "tail": 500, "batches": 200_000},
    ),
    Peer(
        "delta-rs",
        "delta_",
        ("deltalake==1.6.6", "pyarrow==26.0.1"),
        "import deltalake",
        "table",
        {"append": 100, "tail": 100, "batches": 50_000},
    ),
    Peer("polars", "polars_", ("polars==2.1.0", "pyarrow==26.0.1"), "import polars", "table"),
)
