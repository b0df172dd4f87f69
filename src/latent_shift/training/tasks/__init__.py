"""Tasks by the name that a recipe's `task` has. A new task is one file and one line here.

Systems keep a table of their own, so that a new one touches nothing here.
"""

from latent_shift.registry import Registry

_HERE = "latent_shift.training.tasks"
TASKS = Registry(
    "task",
    "latent_shift.tasks",
    {
        "text_contrastive": f"{_HERE}.text_contrastive:TextContrastiveTask",
        "video_text_contrastive": f"{_HERE}.video_text_contrastive:VideoTextContrastiveTask",
        "autoencoder": f"{_HERE}.autoencoder:AutoencoderTask",
        "image": f"{_HERE}.image:ImageTask",
        "video": f"{_HERE}.video:VideoTask",
        "distillation": f"{_HERE}.distillation:DistillationTask",
    },
    more="latent_shift.systems.tasks:TASKS",
)
