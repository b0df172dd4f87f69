"""Tasks that systems are trained by, beside those of `training/tasks`; see `training.tasks.TASKS`."""

_HERE = "latent_shift.systems"
_MAKE_A_VIDEO, _COGVIDEO = f"{_HERE}.make_a_video", f"{_HERE}.cogvideo"
TASKS = {
    "latent_vdm": f"{_HERE}.latent_vdm:LatentVDMTask",
    "motion_module": f"{_HERE}.motion_module:MotionModuleTask",
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
}
