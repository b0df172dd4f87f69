"""`latent-shift serve`: the HTTP API, the page and the worker, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import gc
import os
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated

import typer

from latent_shift.checkpoints import DEVICES, DTYPES, installed_models
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.cli import options as opt

KEY_VARIABLE = "LATENT_SHIFT_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CLOSE_WITHIN = 1  # seconds that open answers have to end when the server stops
_DAY, _MEGABYTE, _GIGABYTE = 86_400.0, 10**6, 10**9
_HOST = re.compile(  # a name or an IPv6 address, with what a Host header or an address may have around it
    r"(?:[a-z]+://)?(?P<name>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]*)?(?:/.*)?", re.IGNORECASE | re.ASCII
)


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[ID=]NAME",
            help="Model as of `generate`, and the id that requests name it by; repeatable, the first is the"
            " default. [all built-in models]",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    data: Annotated[
        Path, typer.Option(metavar="DIR", parser=opt.folder_path, help="Folder of jobs and clips.")
    ] = Path("out/serve"),
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", metavar="FILE", help=f"API keys, one a line. [one in ${KEY_VARIABLE}, or none]"
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Listen on another address than loopback without a key.")
    ] = False,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="Name that the server is called by; repeatable."),
    ] = None,
    max_queued: Annotated[int, typer.Option(help="Jobs that may wait; more are refused.")] = 256,
    max_queued_per_key: Annotated[int, typer.Option(help="Jobs of one API key that may wait.")] = 256,
    max_prompt_chars: Annotated[int, typer.Option(help="Characters of a prompt.")] = 2000,
    max_frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 128,
    max_pixels: Annotated[int, typer.Option(help="Pixels of a frame.")] = 1024 * 1024,
    max_steps: Annotated[int, typer.Option(help="Denoising steps.")] = 200,
    max_work: Annotated[int, typer.Option(help="Pixels x frames x steps of a clip.")] = 4 * 10**9,
    max_upload: Annotated[int, typer.Option(help="Megabytes of a file to read settings from.")] = 32,
    keep_days: Annotated[float, typer.Option(help="Days after which a clip expires.")] = 7.0,
    keep_gigabytes: Annotated[
        float, typer.Option(help="Size of all clips, from which the oldest expire.")
    ] = 10.0,
    min_free: Annotated[int, typer.Option(help="Megabytes of the disk to leave free.")] = 200,
    job_timeout: Annotated[float, typer.Option(help="Seconds that the making of a batch may take.")] = 3600.0,
    max_attempts: Annotated[int, typer.Option(help="Times that a job may lose its worker.")] = 3,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
) -> None:
    """Serve an HTTP API (/v1/videos) and a page to generate clips with."""
    opt.check_choice(DEVICES, device=device)
    opt.check_choice(DTYPES, dtype=dtype)
    opt.check_range(0, 65535, port=port)
    opt.check_range(1, 1000, max_attempts=max_attempts)
    opt.check_range(0.001, 36_500, keep_days=keep_days)
    opt.check_range(0, 10**6, keep_gigabytes=keep_gigabytes, min_free=min_free)
    opt.check_range(1, 10**7, job_timeout=job_timeout)
    keys = _api_keys(key_file)
    names = host_names(allowed_hosts or ())
    if host not in _LOOPBACK and not keys and not no_auth:
        raise ValueError(
            f"--host {host}: others could use this server; set ${KEY_VARIABLE}, --api-key-file or --no-auth"
        )
    try:
        import uvicorn

        from latent_shift.server.app import create_app, security_of
        from latent_shift.server.config import Limits, ServerConfig
        from latent_shift.server.jobs import StoreFullError
        from latent_shift.server.security import LOOPBACK
    except ImportError as error:
        raise ValueError(
            f"serve needs more packages ({error.name}): pip install 'latent-shift[serve]'"
        ) from error
    from latent_shift.io import only_process_in

    config = ServerConfig(
        data=data,
        models=_named(models or installed_models()),
        device=device,
        dtype=dtype,
        limits=Limits(
            prompt_chars=max_prompt_chars, frames=max_frames, pixels=max_pixels, steps=max_steps,
            work=max_work, queued=max_queued, queued_per_key=max_queued_per_key,
            upload_bytes=max_upload * _MEGABYTE,
        ),
        max_attempts=max_attempts,
        job_timeout=job_timeout,
        keep=keep_days * _DAY,
        keep_bytes=int(keep_gigabytes * _GIGABYTE),
        min_free_bytes=min_free * _MEGABYTE,
    )  # fmt: skip
    quiet_libraries()
    shown = f"[{host}]" if ":" in host else host
    hosts = (*LOOPBACK, shown.lower(), *names)
    with only_process_in(data, "serves"), listening(host, port) as listener:
        try:
            app = create_app(config, security_of(config, hosts=hosts, api_keys=keys))
        except StoreFullError as error:
            raise ValueError(f"--data {data}: {error}; make room, or name another folder") from error
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_CLOSE_WITHIN,
            server_header=False,
        )  # fmt: skip
        print(f"serving http://{shown}:{listener.getsockname()[1]}", flush=True)
        gc.freeze()  # all that the libraries hold: looking through it again took seconds of the exit
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        except KeyboardInterrupt:  # raised again by uvicorn when all has ended
            return


def _named(models: list[str]) -> dict[str, str]:
    """Names of models by their ids. Raises ValueError for an id that is given twice."""
    named: dict[str, str] = {}
    for text in models:
        id, equals, name = (text, "", "") if Path(text).exists() else text.partition("=")
        if id in named:
            raise ValueError(f"--model {text}: the id {id!r} is taken; give another: ID=NAME")
        named[id] = name if equals else id
    return named


def _api_keys(file: Path | None) -> tuple[str, ...]:
    if file is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        return (_checked(key, f"${KEY_VARIABLE}"),) if key else ()
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--api-key-file {file}: cannot be read: {error}") from error
    keys = tuple(
        _checked(line.strip(), f"--api-key-file {file}: line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not keys:
        raise ValueError(f"--api-key-file {file}: holds no key")
    return keys


def _checked(key: str, where: str) -> str:
    """A key that a header can hold. Raises ValueError, without the key, for another. where: it was given."""
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{where}: a key is sent in a header: give one of ASCII letters, digits and signs")
    return key


def host_names(given: Iterable[str]) -> tuple[str, ...]:
    """Names of --allowed-host as the guard compares them.

    Raises ValueError for one with a scheme, port or path, which would match no request, and for no name.
    """
    return tuple(_host_name(text) for text in given)


def _host_name(text: str) -> str:
    try:
        return f"[{IPv6Address(text)}]"
    except ValueError:
        found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError(f"--allowed-host {text}: is no name of a host; give one as clips.example")
    if found["name"] != text:
        raise ValueError(f"--allowed-host {text}: give the name only, as {found['name']}")
    return text.lower()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ValueError where the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named since asyncio sets TCP_NODELAY only then: without it, each answer on a connection
    # that is kept waits 40 ms for the client's acknowledgement of the headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(f"--host {host} --port {port}: {error.strerror or error}") from error
    listener.listen()  # who comes before the server is ready waits for it
    return listener
