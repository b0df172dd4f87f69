"""`latent-shift study create | serve | report`: which of two clips people prefer, from folders to figures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift.checkpoints import DEVICES, DTYPES
from latent_shift.cli import options as opt
from latent_shift.cli.output import free_place, print_json
from latent_shift.cli.progress import progress_bar, progress_of_sets
from latent_shift.cli.serve import host_names, listening
from latent_shift.io import write_text
from latent_shift.limits import MAX_FPS, MAX_FRAMES, MAX_SEED, MAX_SIDE, MIN_FPS

if TYPE_CHECKING:
    from latent_shift.study.design import Study

MAX_RATERS = 1000
_EVERYWHERE = ("0.0.0.0", "::")

app = typer.Typer(
    help="Ask people which of two clips they prefer, and report it.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the study.")]


@app.command()
def create(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]SOURCE...", help="Two or more folders of clips, or models that make them."
        ),
    ],
    prompt_file: Annotated[
        Path, typer.Option("--prompts", metavar="FILE", help="Prompts: .txt, one a line, or .jsonl.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", parser=opt.folder_path, help="Folder of the study, new or empty."
        ),
    ],
    raters: Annotated[int, typer.Option(help="Raters of each pair.")] = 5,
    pairs: Annotated[int, typer.Option(help="Most pairs of a rater, known pairs and repeats aside.")] = 30,
    no_difference: Annotated[
        bool, typer.Option("--no-difference", help="Allow the answer that there is no difference.")
    ] = False,
    frames: Annotated[int | None, typer.Option(help="Take the first frames of each clip. [all]")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second that are taken; needs --frames. [the clip's own]")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the middle square that is taken. [the whole frame]")
    ] = None,
    title: Annotated[str, typer.Option(help="Title that raters see.")] = "Comparison of clips",
    consent: Annotated[
        Path | None, typer.Option(metavar="FILE.txt", help="Text that raters agree to. [a short one]")
    ] = None,
    lease: Annotated[
        float, typer.Option(help="Minutes after which a pair that was left goes to another rater.")
    ] = 20.0,
    seed: Annotated[int, typer.Option(help="Random seed of order and sides, and of models' clips.")] = 0,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
) -> None:
    """Make a study of clips of the same prompts, and print what it can find."""
    opt.check_range(1, MAX_RATERS, raters=raters, pairs=pairs)
    opt.check_range(1, MAX_FRAMES, frames=frames)
    opt.check_range(MIN_FPS, MAX_FPS, fps=fps)
    opt.check_range(16, MAX_SIDE, resolution=resolution)
    opt.check_range(0, MAX_SEED, seed=seed)
    opt.check_range(0.1, 100_000, lease=lease)
    opt.check_choice(DEVICES, device=device)
    opt.check_choice(DTYPES, dtype=dtype)
    _need_packages()
    from latent_shift.data.caption_io import read_text
    from latent_shift.generation import read_prompts
    from latent_shift.study.create import check_folder, create_study
    from latent_shift.study.design import CONSENT, DesignOptions
    from latent_shift.study.sources import ReadOptions, check_prompts, open_sources

    check_folder(output)
    prompts = read_prompts(prompt_file)
    check_prompts(prompts)
    text = CONSENT if consent is None else read_text(consent)[0].strip()
    if not text or not title.strip():
        raise ValueError(f"{'--title' if text else consent}: is empty")
    options = DesignOptions(
        title=title.strip(), raters_per_pair=raters, pairs_per_rater=pairs, no_difference=no_difference,
        lease_minutes=lease, consent=text, seed=seed,
    )  # fmt: skip
    with progress_of_sets() as show:
        opened = open_sources(
            sources, prompts, ReadOptions(frames, fps), seed=seed,
            options={"device": device, "dtype": dtype}, on_progress=show,
        )  # fmt: skip
        study = create_study(
            opened, prompts, output, options, resolution=resolution,
            on_progress=lambda done, total: show("clips", done, total),
        )  # fmt: skip
    print(_plan(study, output))


def _argument(folder: Path) -> str:
    """A folder as a shell takes it; a name that begins with - would be read as options."""
    return shlex.quote(f"./{folder}" if str(folder).startswith("-") else str(folder))


def _plan(study: Study, folder: Path) -> str:
    """Lines about the size of a study and the preferences that it can find."""
    from latent_shift.study import power

    prompts, options = len(study.prompts), study.options
    apart = len(study.pairs) // prompts
    per_rater = max(options.pairs_per_rater // apart, 1)
    found = ", ".join(
        f"{100 * share:.0f} % against 50 % is found in"
        f" {100 * power.power(share, prompts, options.raters_per_pair, per_rater):.0f} % of studies"
        for share in power.SHARES
    )
    return "\n".join(
        [
            f"{folder}: {prompts} prompts, {len(study.sources)} sources"
            f" ({', '.join(source.name for source in study.sources)}), {len(study.pairs)} pairs",
            f"{options.raters_per_pair} raters a pair: {len(study.queue)} ratings;"
            f" {study.raters_needed} raters with {options.pairs_per_rater} pairs each,"
            f" {len(study.sessions[0])} with training, catch pairs and repeats",
            f"{prompts} prompts, {options.raters_per_pair} raters: {found} (votes of two raters on a prompt"
            f" correlate by {power.SAME_PROMPT}, of a rater on two prompts by {power.SAME_RATER}, assumed)",
            f"next: latent-shift study serve {_argument(folder)}",
        ]
    )


@app.command()
def serve(
    folder: StudyFolder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    links: Annotated[
        int | None,
        typer.Option(help="Print so many personal links, and take no others. [one link for everyone]"),
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="Name that the server is called by; repeatable."),
    ] = None,
) -> None:
    """Serve the page for raters until Ctrl-C, and print its link; answers are kept in the study's folder."""
    opt.check_range(0, 65535, port=port)
    opt.check_range(1, MAX_RATERS * MAX_RATERS, links=links)
    _need_packages()
    import uvicorn

    from latent_shift.io import only_process_in
    from latent_shift.server.security import LOOPBACK, Security
    from latent_shift.study.app import create_app

    shown = f"[{host}]" if ":" in host else host
    if host in _EVERYWHERE and not allowed_hosts:
        raise ValueError(f"--host {host}: say by which name raters call this machine: --allowed-host NAME")
    names = [*host_names(allowed_hosts or ()), *([] if host in _EVERYWHERE else [shown.lower()])]
    hosts = tuple({*LOOPBACK, *names})
    application = create_app(folder, Security(hosts=hosts, body_bytes=10_000), open_to_all=links is None)
    with only_process_in(folder, "serves"), listening(host, port) as listener:
        store = application.state.store
        address = f"http://{names[0]}:{listener.getsockname()[1]}"
        if links is None:
            print(f"{address}/join/{store.invitation()}", flush=True)
        else:
            for token in store.personal_tokens(links):
                print(f"{address}/r/{token}", flush=True)
        progress = store.progress()
        print(
            f"{progress.whole} of {progress.wanted} ratings are in; Ctrl-C stops, nothing is lost."
            f" Report: latent-shift study report {shlex.quote(str(folder))}",
            file=sys.stderr,
        )
        config = uvicorn.Config(
            application, log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=3,
        )  # fmt: skip
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # raised again by uvicorn when all has ended
            return


@app.command()
def report(
    folder: StudyFolder,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", parser=opt.output_path, help="Write the report as one page with clips."
        ),
    ] = None,
    output: opt.Output = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", parser=opt.output_path, help="Write all answers, one a row."),
    ] = None,
    prompts: Annotated[int, typer.Option(help="Number of prompts shown with clips on the page.")] = 24,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Report a study's answers so far; the study may be going on."""
    opt.check_range(0, 100_000, prompts=prompts)
    opt.check_files({".html": html, ".json": output, ".csv": csv}, overwrite=force)
    _need_packages()
    from latent_shift.study import report as pages
    from latent_shift.study.analysis import analyse
    from latent_shift.study.design import STUDY_FILE
    from latent_shift.study.store import StudyStore

    if output is not None and output.resolve() == (folder / STUDY_FILE).resolve():
        raise ValueError(f"{output}: is the study itself; write the report into another file")
    store = StudyStore.open(folder)
    answers, raters, progress = store.answers(), store.raters(), store.progress()
    store.close()
    results = analyse(store.study, answers, raters, progress)
    text = results.model_dump_json(indent=2)
    if output is not None:
        write_text(free_place(output, force), text + "\n")
    if csv is not None:
        write_text(free_place(csv, force), pages.csv_text(store.study, answers, results))
    if html is not None:
        with progress_bar("page", 1):
            write_text(free_place(html, force), pages.html(results, store.study, answers, folder, prompts))
    if as_json:
        print_json(text)
    else:
        print(pages.markdown(results))


def _need_packages() -> None:
    """Raise ValueError where the extra is not installed."""
    try:
        import evalica  # noqa: F401
        import fastapi  # noqa: F401
        import sqlalchemy  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"study needs more packages ({error.name}): pip install 'latent-shift[study]'"
        ) from error
