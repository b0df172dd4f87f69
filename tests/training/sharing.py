"""The program in a process beside others on CPUs, with FSDP2 or DeepSpeed, which accelerate gives GPUs alone.

All that is done is accelerate's own but for its choice of what to do.
"""

import os
import sys

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs

from latent_shift.cli.main import main
from latent_shift.training import distributed


class WithFsdp(Accelerator):
    def __init__(self, **options):
        super().__init__(cpu=True, **options)
        self.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin()


class WithDeepSpeed(Accelerator):
    def __init__(self, **options):
        super().__init__(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")], **options)


if __name__ == "__main__":
    with_fsdp = "ACCELERATE_USE_FSDP" in os.environ
    distributed.Accelerator = WithFsdp if with_fsdp else WithDeepSpeed
    sys.exit(main())
