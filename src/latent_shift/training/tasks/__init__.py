"""Tasks by the name that a recipe's `task` has. A new task is one file and one line here."""

from latent_shift.registry import Registry

_HERE = "latent_shift.training.tasks"
_MAKE_A_VIDEO = "latent_shift.systems.make_a_video"
_COGVIDEO = "latent_shift.systems.cogvideo"
TASKS = Registry(
    "task",
    "latent_shift.tasks",
    {
        "text_contrastive": f"{_HERE}.text_contrastive:TextContrastiveTask",
        "video_text_contrastive": f"{_HERE}.video_text_contrastive:VideoTextContrastiveTask",
        "autoencoder": f"{_HERE}.autoencoder:AutoencoderTask",
        "image": f"{_HERE}.image:ImageTask",
        "video": f"{_HERE}.video:VideoTask",
        "latent_vdm": "latent_shift.systems.latent_vdm:LatentVDMTask",
        "motion_module": "latent_shift.systems.motion_module:MotionModuleTask",
        "make_a_video_prior": f"{_MAKE_A_VIDEO}.prior:PriorTask",
        "make_a_video_image": f"{_MAKE_A_VIDEO}.text_tasks:ImageStageTask",
        "make_a_video_video": f"{_MAKE_A_VIDEO}.text_tasks:VideoStageTask",
        "make_a_video_interpolation": f"{_MAKE_A_VIDEO}.text_tasks:InterpolationTask",
        "make_a_video_image_sr": f"{_MAKE_A_VIDEO}.super_resolution:ImageSuperResolutionTask",
        "make_a_video_video_sr": f"{_MAKE_A_VIDEO}.super_resolution:VideoSuperResolutionTask",
        "cogvideo_tokenizer": f"{_COGVIDEO}.tokenizer_task:TokenizerTask",
        "cogvideo_image": f"{_COGVIDEO}.transformer_tasks:ImageTask",
        "cogvideo_key_frames": f"{_COGVIDEO}.transformer_tasks:KeyFramesTask",
        "cogvideo_interpolation": f"{_COGVIDEO}.transformer_tasks:InterpolationTask",
    },
)
