"""`LatentShiftPipeline`: prompts in, clips out; one frame gives an image.

A diffusers pipeline whose U-Net shifts over frames. Text encoding, loading, offload and slicing are the stock
pipeline's own, which is Stable Diffusion's or SDXL's by what the folder holds; what both share stands once:

    shifting.py     the U-Net's shift, its settings, and the folders that hold them
    sampling.py     the call: checks, the denoising of all frames together, decoding by chunks
    request.py      whether a request can be met, and how images part into clips
    stable_diffusion.py, stable_diffusion_xl.py     what differs: encoding text, added conditions, decoding

    pipeline = LatentShiftPipeline.from_pretrained(folder)
    clip = pipeline(prompt, num_frames=16, generator=torch.Generator().manual_seed(0)).frames[0]

It opens any folder in either layout and saves folders that the stock pipelines open.
"""

from latent_shift.pipeline.request import OUTPUT_TYPES
from latent_shift.pipeline.sampling import LatentShiftPipelineOutput, NonFiniteError
from latent_shift.pipeline.shifting import SHIFT_OPTIONS
from latent_shift.pipeline.stable_diffusion import LatentShiftPipeline
from latent_shift.pipeline.stable_diffusion_xl import LatentShiftXLPipeline

__all__ = [
    "OUTPUT_TYPES",
    "SHIFT_OPTIONS",
    "LatentShiftPipeline",
    "LatentShiftPipelineOutput",
    "LatentShiftXLPipeline",
    "NonFiniteError",
]
