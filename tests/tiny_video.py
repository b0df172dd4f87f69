"""Tiny random text-to-video pipelines of diffusers, made of the real classes.

    pipeline = tiny_animatediff()      # also tiny_text_to_video_sd, tiny_cogvideox, tiny_wan, tiny_ltx
    pipeline.save_pretrained(folder)

Latents of few channels, one layer a block, T5 or CLIP of one layer with a vocabulary of bytes or words.
"""

from __future__ import annotations

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer, UMT5Config, UMT5EncoderModel

from tiny import (
    TEXT_WIDTH,
    WORDS,
    tiny_autoencoder,
    tiny_scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
)

_T5 = {"d_model": TEXT_WIDTH, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def _words() -> T5Tokenizer:
    """A tokenizer in T5's format: each of WORDS is one token."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS)]
    return T5Tokenizer(vocab=[(piece, -float(number)) for number, piece in enumerate(pieces)], extra_ids=0)


def tiny_animatediff() -> AnimateDiffPipeline:
    """AnimateDiff: an image U-Net with motion modules, 32 x 32 pixels."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(5)
    adapter = MotionAdapter(
        block_out_channels=(12, 24), motion_layers_per_block=1, motion_norm_num_groups=4,
        motion_num_attention_heads=2, motion_mid_block_layers_per_block=1,
    )  # fmt: skip
    return AnimateDiffPipeline(
        vae=tiny_autoencoder(), text_encoder=tiny_text_encoder(tokenizer), tokenizer=tokenizer,
        unet=tiny_unet(), motion_adapter=adapter, scheduler=tiny_scheduler(),
    )  # fmt: skip


def tiny_text_to_video_sd() -> TextToVideoSDPipeline:
    """ModelScope's text-to-video: a U-Net with convolutions and attention over time, 32 x 32 pixels."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(6)
    unet = UNet3DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        norm_num_groups=4, cross_attention_dim=TEXT_WIDTH, attention_head_dim=4,
    )  # fmt: skip
    return TextToVideoSDPipeline(
        vae=tiny_autoencoder(), text_encoder=tiny_text_encoder(tokenizer), tokenizer=tokenizer, unet=unet,
        scheduler=tiny_scheduler(),
    )  # fmt: skip


def tiny_cogvideox() -> CogVideoXPipeline:
    """CogVideoX: a transformer on latents of 4 n + 1 frames, 16 x 16 pixels, seventeen frames by default."""
    torch.manual_seed(7)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=4,
        text_embed_dim=TEXT_WIDTH, num_layers=1, sample_width=4, sample_height=4, sample_frames=17,
        patch_size=2,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        sample_height=16, sample_width=16,
    )  # fmt: skip
    return CogVideoXPipeline(
        tokenizer=_words(), text_encoder=T5EncoderModel(T5Config(vocab_size=32, **_T5)).eval(), vae=vae,
        transformer=transformer, scheduler=CogVideoXDDIMScheduler(),
    )  # fmt: skip


def tiny_wan() -> WanPipeline:
    """Wan: a transformer on latents of 4 n + 1 frames; its defaults are published ones."""
    torch.manual_seed(8)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=TEXT_WIDTH, freq_dim=32, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return WanPipeline(
        tokenizer=_words(), text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=32, **_T5)).eval(), vae=vae,
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip


def tiny_ltx() -> LTXPipeline:
    """LTX-Video: a transformer on latents of 8 n + 1 frames; its defaults are published ones."""
    torch.manual_seed(9)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=1, caption_channels=TEXT_WIDTH,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
    )  # fmt: skip
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, tokenizer=_words(), transformer=transformer,
        text_encoder=T5EncoderModel(T5Config(vocab_size=32, **_T5)).eval(),
    )  # fmt: skip
