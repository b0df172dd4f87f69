"""`latent-shift serve`: an HTTP API that clients of OpenAI's `/v1/videos` speak, a job store, and a page.

One server process (`app.py`) answers requests and writes jobs into SQLite (`store.py`); one worker process
(`worker.py`) claims them, makes clips by `generation.run` and writes files (`files.py`); `supervisor.py`
starts the worker again when it dies and gives its jobs back to the queue. Each knows the other by the store
only. Needs the extra `serve`.

    config = ServerConfig(data=Path("out/serve"), models={"moving-shapes": "moving-shapes"})
    app = create_app(config)          # an ASGI application; its lifespan starts and stops the worker
"""
