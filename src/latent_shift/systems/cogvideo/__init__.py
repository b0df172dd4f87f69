"""CogVideo (arXiv 2205.15868): frames as tokens, and a transformer with two channels of attention.

    tokenizer.py           frames to tokens and back: a convolutional autoencoder with a codebook
    transformer.py         the image transformer: text and the tokens of one frame
    temporal_attention.py  the second channel of attention, over all frames, beside the frozen first one
    sampling.py            tokens one after the other, with a cache
    model.py               all parts as one folder
    tokenizer_task.py  transformer_tasks.py          the training stages
    system.py              requests to clips

docs/systems.md has what the paper leaves open and what is left out here.
"""
