"""From a name to a model: the built-in default, a folder, a single file, a hub id; LoRA upon it; hashes.

`resolve` turns a name into a checked path without importing torch, so that a wrong name or a damaged file is
an error at once; `load` makes the pipeline of it. Not the room that knows what is inside a model (that is
`pipeline`). It reaches the network for hub ids only. Weights are read from safetensors,
never from pickles.

    pipeline = load("moving-shapes")
    pipeline = load("/models/stable-diffusion-v1-5", device="cuda", dtype="fp16")
    pipeline = load("/models/stable-diffusion-v1-5", loras=["style.safetensors:0.8"])
    pipeline = load("/models/v1-5-pruned.safetensors", tokenizer="/models/clip/tokenizer")
    weights_hash(resolve("moving-shapes"))   # "3f9a01c2b7de", kept in every clip made
"""

from latent_shift.checkpoints.loading import (
    DEVICES,
    DTYPES,
    SCHEDULERS,
    check_compiler,
    choose_device,
    choose_dtype,
    compile_unet,
    load,
    max_steps,
    use_scheduler,
)
from latent_shift.checkpoints.lora import Lora, check_loras, lora_facts
from latent_shift.checkpoints.resolve import (
    BUILT_IN,
    DEFAULT_MODEL,
    built_in,
    installed_models,
    native_size,
    pixel_multiple,
    resolve,
    video_config,
    weights_hash,
)
from latent_shift.checkpoints.single_file import PREDICTION_TYPES
from latent_shift.model_weights import check_weights
from latent_shift.precision import auto_dtype

__all__ = [
    "BUILT_IN",
    "DEFAULT_MODEL",
    "DEVICES",
    "DTYPES",
    "PREDICTION_TYPES",
    "SCHEDULERS",
    "Lora",
    "auto_dtype",
    "built_in",
    "check_compiler",
    "check_loras",
    "check_weights",
    "choose_device",
    "choose_dtype",
    "compile_unet",
    "installed_models",
    "load",
    "lora_facts",
    "max_steps",
    "native_size",
    "pixel_multiple",
    "resolve",
    "use_scheduler",
    "video_config",
    "weights_hash",
]
