"""The program in a process beside others on CPUs, with FSDP2, which accelerate gives GPUs alone.

All that is done is accelerate's own but for its choice of what to do.
"""

import sys

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from latent_shift.cli.main import main
from latent_shift.training import distributed


class WithFsdp(Accelerator):
    def __init__(self, **options):
        super().__init__(**{**options, "cpu": True})
        self.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin()


if __name__ == "__main__":
    distributed.Accelerator = WithFsdp
    sys.exit(main())
