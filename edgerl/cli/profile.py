"""edgerl profile: does a model fit a device, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.support import budgets
from edgerl.cli.support.measuring import NOTHING_DONE, Done, Measuring
from edgerl.cli.support.output import Force, Json, note, print_document, print_json
from edgerl.cli.support.profile_formats import excess, junit, markdown, print_learning, print_page, print_summary
from edgerl.cli.support.streams import keep_results_apart
from edgerl.commands.models import find_learner, find_model
from edgerl.errors import CheckFailed, ConfigError, quoted

if TYPE_CHECKING:
    from edgerl.profiling.budgets.report import ProfileReport
    from edgerl.profiling.budgets.rows import ModelRows

FORMATS = ("text", "markdown", "junit")


def command(
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="ID|FILE.toml", help="As `edgerl devices list` names it; may be repeated."),
    ] = None,
    model: Annotated[
        Path | None, typer.Argument(help="A policy, an ONNX perceptron or a run folder; default: runs/latest.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="WIDTHS", help="A network that does not exist yet: 13-64-64-4.")
    ] = None,
    density: Annotated[
        float | None, typer.Option("--density", help="Density of its hidden layers.", show_default="1")
    ] = None,
    block: Annotated[
        int | None, typer.Option("--block", help="Block of its connections: 1 or 4.", show_default="1")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="onnxruntime, native or c.", show_default="the device's")
    ] = None,
    mode: Annotated[str | None, typer.Option("--mode", help="A power mode of the device, such as 5W.")] = None,
    budget_memory: budgets.Memory = None,
    budget_flash: budgets.Flash = None,
    budget_flops: budgets.Flops = None,
    budget_latency: budgets.Latency = None,
    rate: budgets.Rate = None,
    learn: Annotated[
        bool,
        typer.Option("--learn", help="Profile a learner.safetensors: memory of networks and replay, updates that fit."),
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the latency on this machine: native and onnxruntime.")
    ] = False,
    ssh: Annotated[
        str | None, typer.Option("--ssh", metavar="USER@HOST", help="Measure it on a board where nothing is installed.")
    ] = None,
    ssh_config: Annotated[
        Path | None,
        typer.Option("--ssh-config", metavar="FILE", help="The board's port, key and known hosts, as for `ssh -F`."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE.tar", help="Write a benchmark to run on a board without ssh."),
    ] = None,
    import_result: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.json", help="Read the result of such a benchmark.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE.toml", help="Save the measurement in a profile of your own.")
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="text, markdown or junit.")] = "text",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare a model's memory, flash, FLOPs and latency with a device's budgets; exit 1 if it exceeds one.

    The latency is an estimate unless it is measured: here, over ssh, or on the board by hand. A measurement is printed
    beside the estimate and decides the verdict; without --device only the measurement is printed.

    Example: edgerl profile --device stm32f405 --rate 200 --budget-memory 64KiB
    """
    form = _form(form, as_json)
    keep_results_apart(form != "text")
    names = device or []
    measuring = Measuring(measure, ssh, ssh_config, import_result, bundle, save, force)
    of_a_device = {
        "--runtime": runtime,
        "--mode": mode,
        "--rate": rate,
        "--format": form if form in ("markdown", "junit") else None,
        "--budget-memory": budget_memory,
        "--budget-flash": budget_flash,
        "--budget-flops": budget_flops,
        "--budget-latency": budget_latency,
        "--learn": True if learn else None,
    }
    measuring.check(names, of_a_device, network)
    options: dict[str, Any] = {
        "runtime": runtime,
        "mode": mode,
        **budgets.budgets(budget_memory, budget_flash, budget_flops, budget_latency, rate),
    }
    if learn:
        of_a_policy = {"--network": network, "--density": density, "--block": block}
        given = [*measuring.chosen, *(name for name, value in of_a_policy.items() if value is not None)]
        if given:
            raise ConfigError(f"{given[0]} is about a policy; --learn is about a learner.safetensors; choose one")
        _profile_learner(model, names, options, form)
    else:
        _profile(_model(model, network, density, block), names, options, measuring, form)


def _form(form: str, as_json: bool) -> str:
    """What is printed: text, markdown, junit or json."""
    if form not in FORMATS or (as_json and form != "text"):
        expected = "only --json" if as_json and form in FORMATS else f"one of {', '.join(FORMATS)}"
        raise ConfigError(f"--format is {quoted(form)}; expected {expected}")
    return "json" if as_json else form


def _profile(
    model: Path | ModelRows, names: Sequence[str], options: Mapping[str, Any], measuring: Measuring, form: str
) -> None:
    """Estimate and measure, print both, and keep the measurement."""
    from edgerl.profiling.budgets.device import find_device
    from edgerl.profiling.budgets.report import profile

    if not names:
        assert isinstance(model, Path)
        measuring.run(model, None, None).print_without_report(model, as_json=form == "json")
        return
    devices = [find_device(name) for name in names]
    reports = [profile(model, each, **options) for each in devices]
    done = measuring.run(model, devices[0], options["mode"]) if isinstance(model, Path) else NOTHING_DONE
    reports = [done.applied_to(report) for report in reports]
    _print(reports, done, form)
    if measuring.save is not None:
        done.save(reports[0].architecture, devices[0], names[0], measuring.save)
    _fail_where_something_exceeds(reports)


def _fail_where_something_exceeds(reports: Sequence[ProfileReport]) -> None:
    if not all(report.fits for report in reports):
        raise CheckFailed(excess(reports))


def _model(model: Path | None, network: str | None, density: float | None, block: int | None) -> Path | ModelRows:
    """The file that is meant, or the network that is described."""
    from edgerl.profiling.budgets.model import network_rows

    if network is None:
        if density is not None or block is not None:
            raise ConfigError("--density and --block describe a --network; name one, as in --network 13-64-64-4")
        # The policy, even where its export is newer: an export says less of the weights, and is found beside them.
        return find_model(model, note, prefers_first=True)
    if model is not None:
        raise ConfigError(f"both {model} and --network {network[:40]} are given; choose one")
    return network_rows(network, 1.0 if density is None else density, 1 if block is None else block)


def _print(reports: Sequence[ProfileReport], done: Done, form: str) -> None:
    if form == "json":
        _print_json([{**reports[0].as_dict(), **done.as_dict()}, *(report.as_dict() for report in reports[1:])])
    elif form == "text" and len(reports) == 1:
        print_page(reports[0])
        done.print(reports[0].runtime)
    else:
        _print_table(reports, form)


def _profile_learner(model: Path | None, names: Sequence[str], options: Mapping[str, Any], form: str) -> None:
    """Reports of a learner, with its memory in place of the policy's."""
    from edgerl.profiling.budgets.learning import profile_learner

    path = find_learner(model, note)
    learners = [profile_learner(path, name, **options) for name in names]
    reports = [learner.acting for learner in learners]
    if form == "json":
        _print_json([{**each.acting.as_dict(), "learning": each.as_dict()} for each in learners])
    elif form == "text" and len(learners) == 1:
        print_page(reports[0])
        print_learning(learners[0])
    else:
        _print_table(reports, form)
    _fail_where_something_exceeds(reports)


def _print_json(reports: Sequence[dict[str, Any]]) -> None:
    several = {"reports": reports, "fits": all(report["fits"] for report in reports)}
    print_json(reports[0] if len(reports) == 1 else several)


def _print_table(reports: Sequence[ProfileReport], form: str) -> None:
    if form == "text":
        print_summary(reports)
    else:
        print_document(markdown(reports) if form == "markdown" else junit(reports))
