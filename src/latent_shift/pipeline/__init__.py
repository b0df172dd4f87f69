"""`LatentShiftPipeline`: prompts in, clips out; one frame gives an image.

A diffusers pipeline with the temporal shift in its U-Net: Stable Diffusion's or SDXL's, by the layout of the
folder. `base.py` holds the call, which both share, `denoising.py` its loop, `decoding.py` its end,
`inputs.py` its checks, `folders.py` loading and saving. It opens any folder in either layout and saves
folders that the stock pipelines open.

    pipeline = LatentShiftPipeline.from_pretrained(folder)
    clip = pipeline(prompt, num_frames=16, generator=torch.Generator().manual_seed(0)).frames[0]
"""

from latent_shift.pipeline.quiet import libraries_quiet

with libraries_quiet():  # transformers tells of packages that are not needed here
    from latent_shift.pipeline.base import LatentShiftPipelineOutput
    from latent_shift.pipeline.finite import NonFiniteError
    from latent_shift.pipeline.inputs import OUTPUT_TYPES
    from latent_shift.pipeline.stable_diffusion import LatentShiftPipeline
    from latent_shift.pipeline.stable_diffusion_xl import LatentShiftXLPipeline

__all__ = [
    "OUTPUT_TYPES",
    "LatentShiftPipeline",
    "LatentShiftPipelineOutput",
    "LatentShiftXLPipeline",
    "NonFiniteError",
]
