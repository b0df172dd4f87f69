"""Make-A-Video: a cascade of diffusion models in pixels (arXiv 2209.14792), in small.

    clip = high_sr(video_sr(interpolation(video(text))))         with a prior: video(prior(text))

Folder of a stage, its name in the paper, and its part:

    image          D       text to a still; its weights begin `video`
    image_sr       SR_l    a small still to a larger one; its weights begin `video_sr`
    video          D^t     text to a few small frames at a frame rate
    interpolation  ^F      key frames to all frames
    video_sr       SR_l^t  small frames to larger ones, all together
    high_sr        SR_h    frames to still larger ones, each by itself from the same noise; an option
    prior          P       text to the embedding of a still; an option

`pseudo3d.py` has the temporal layers, `stage.py` one trained network with its files, `cascade.py` the
sampling, `system.py` the system; `task.py`, `text_tasks.py`, `super_resolution.py` and `prior.py` train, on
the items of `data.py`, with the text of `text.py`.
"""
