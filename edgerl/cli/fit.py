"""`edgerl fit`: the smallest policy of a run that fits a device and keeps its return."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerl.cli.support import budgets
from edgerl.cli.support.output import Force, Json, Met, OwnEnv, note, print_json, print_table
from edgerl.cli.support.profile_formats import human_latency, print_uncertainty, use_of_budget
from edgerl.commands.models import find_subject
from edgerl.errors import CheckFailed
from edgerl.run_folder import short
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.compression.choose import Trial
    from edgerl.compression.fit import FitResult
    from edgerl.compression.returns import MeanReturn, Measurement


def command(
    device: Annotated[str, typer.Option("--device", metavar="ID|FILE.toml", help="As `edgerl devices list` names it.")],
    run: Annotated[
        Path | None, typer.Argument(help="Run folder or policy.safetensors.", show_default="runs/latest")
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share of the return that may be lost, as in 3%.", show_default="3%"),
    ] = None,
    min_return: Annotated[
        float | None, typer.Option(metavar="RETURN", help="Least return; instead of --max-loss.")
    ] = None,
    budget_memory: budgets.Memory = None,
    budget_flash: budgets.Flash = None,
    budget_flops: budgets.Flops = None,
    budget_latency: budgets.Latency = None,
    rate: budgets.Rate = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Choose among small students, too, which are trained first: minutes.")
    ] = False,
    observations: Met = None,
    episodes: Annotated[int, typer.Option(min=2, help="Episodes per measured policy, and again for the chosen.")] = 20,
    env: OwnEnv = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write.", show_default="policy-<device>.safetensors beside it"),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the smallest policy that meets every budget of a device and keeps the return; exit 1 if there is none.

    Connections and hidden units are removed, the rest is fitted to recorded observations, and weights are stored as
    fp32, fp16, int8 or, fine-tuned, int4. With --distill there are students, too: dense ones with a half to an eighth
    of the units, one of 80 % sparsity and one of 90 % in blocks of 4. A return is kept when the low end of its 95 %
    interval says so, twice, in different episodes. A picture of return against latency and bytes is written beside the
    policy.

    Example: edgerl fit --device stm32f405 --budget-flash 32KiB --distill
    """
    from edgerl.compression.fit import fit
    from edgerl.units import parse_share

    given = budgets.budgets(budget_memory, budget_flash, budget_flops, budget_latency, rate)
    folder = find_subject(run, note)
    share = None if max_loss is None else parse_share(max_loss, "--max-loss")
    if distill:
        note("students that are not there yet take half a minute of a core each for 256-256; Ctrl-C loses none of it")
    with _Progress() as progress:
        result = fit(
            folder,
            device,
            output,
            max_loss=share,
            min_return=min_return,
            **given,
            distill=distill,
            observations=observations,
            episodes=episodes,
            env=env,
            force=force,
            progress=progress.report,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        _print(result)
    if result.selection.chosen is None:
        raise CheckFailed(_why_none(result) + ("" if distill else "; students may do better: --distill"))


class _Progress:
    """A bar with what is under way; nothing where stderr is not a terminal."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._progress.add_task("reading", total=1)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, what: str, share: float) -> None:
        """Move the bar."""
        self._progress.update(self._task, description=what, completed=share)


def _print(result: FitResult) -> None:
    selection = result.selection
    print(f"{result.device.name}: {result.candidates} policies priced, {len(selection.trials)} of them measured\n")
    shown = {id(trial) for trial in (*selection.front, selection.chosen, selection.reference)}
    front = [trial for trial in selection.trials if id(trial) in shown]
    rows = [(f"{number}", *_row(trial, result)) for number, trial in enumerate(front, start=1)]
    columns = (
        "",
        "policy",
        "method",
        "weights",
        "connections",
        "runtime",
        "bytes",
        "verdict",
        "latency",
        "return",
        "loss",
    )
    print_table(columns, rows, title=f"The front, over {result.episodes} episodes each")
    wanted = result.goal.least_return(selection.reference.measurement.reference.mean)
    print_uncertainty([trial.candidate.report for trial in front])
    print(f"latencies are estimates; the return must reach {wanted:.1f} by the low end of its interval")
    if selection.chosen is not None and selection.confirmed is not None:
        candidate, confirmed = selection.chosen.candidate, selection.confirmed
        shapes = (
            f"{layer.n_inputs} × {layer.n_outputs} with {layer.connections} connections "
            f"({layer.connections / (layer.n_inputs * layer.n_outputs):.0%})"
            for layer in candidate.policy.layers
        )
        print(f"chosen: {candidate.method}, {candidate.form}; layers {', '.join(shapes)}")
        print(candidate.difference.describe())
        uses = (use_of_budget(name, verdict) for name, verdict in candidate.report.verdicts.items())
        print(f"budgets: {', '.join(uses)}")
        print(f"in {result.episodes} other episodes: return {_interval(confirmed.returns)}, {_loss(confirmed)} lost")
        print(f"policy {short(result.policy_path)}")
    print(f"picture {short(result.picture_path)}")


def _row(trial: Trial, result: FitResult) -> tuple[str, ...]:
    from edgerl.profiling.budgets.report import estimated_latency

    candidate, measurement = trial.candidate, trial.measurement
    return (
        candidate.policy.architecture,
        candidate.method,
        str(candidate.form),
        f"{candidate.policy.connections}",
        candidate.report.runtime,
        human_bytes(candidate.n_bytes),
        _verdict(trial, result),
        human_latency(estimated_latency(candidate.report)),
        _interval(measurement.returns),
        _loss(measurement),
    )


def _verdict(trial: Trial, result: FitResult) -> str:
    if trial is result.selection.chosen:
        return "chosen"
    if not trial.candidate.report.fits:
        return f"over {', '.join(trial.candidate.report.exceeded)}"
    if trial is result.selection.reference:
        return "as trained"
    if any(trial is refuted for refuted in result.selection.refuted):
        return "not confirmed"
    return "fits" if trial.measurement.is_kept else "loses too much"


def _interval(returns: MeanReturn) -> str:
    return f"{returns.mean:.1f} [{returns.low:.1f}, {returns.high:.1f}]"


def _loss(measurement: Measurement) -> str:
    """As a share of the reference's return, with its interval; in units of return where that is zero."""
    gain, reference = measurement.gain, abs(measurement.reference.mean)
    losses = (-gain.mean + 0.0, -gain.high + 0.0, -gain.low + 0.0)
    if not reference:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*losses)
    return "{:.1%} [{:.1%}, {:.1%}]".format(*(loss / reference for loss in losses)).replace("%", " %")


def _why_none(result: FitResult) -> str:
    """One line: what comes nearest, and what it breaks."""
    best, nearest = result.selection.best_in_budget, result.selection.nearest_to_budget
    parts = []
    if best is not None:
        parts.append(f"the best within the budgets has {_interval(best.measurement.returns)}")
    if nearest is None:
        wanted = result.goal.least_return(result.selection.reference.measurement.reference.mean)
        parts.append(f"no policy reaches {wanted:.1f} with confidence; allow a lower return, or more --episodes")
    elif nearest.candidate.report.fits:
        parts.append("what kept it in the first episodes did not in others; more --episodes make intervals narrower")
    else:
        report = nearest.candidate.report
        excess = (use_of_budget(name, report.verdicts[name]) for name in report.exceeded)
        candidate = nearest.candidate
        model = f"{candidate.policy.architecture}, {candidate.method}, {candidate.form}, {report.runtime}"
        parts.append(f"the nearest that keeps it ({model}) exceeds {', '.join(excess)}")
    return f"no policy fits {result.device.id} and keeps the return: {'; '.join(parts)}"
