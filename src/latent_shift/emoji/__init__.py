"""The emoji world: animated emoji drawn by people, composed into captioned clips, and how well they are made.

A pack of pictures (`recipes/emoji/prepare.py` makes it) is the only input. `scene.py` says what a clip
shows, `render.py` draws it, `captions.py` words it, `dataset.py` is the data source "emoji" of recipes,
`splits.py` has the rules of what is held out, `protocol.py` and `eyes.py` score clips. A wing like Moving
Shapes, with the same motions and backgrounds: general code never imports it.
"""
